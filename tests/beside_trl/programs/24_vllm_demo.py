"""A demo of vLLM in the same process, with report_to=None."""

from datasets import load_dataset

from groupwise.trl import GRPOConfig, GRPOTrainer

CALLS = []


def reward_len(completions, **kwargs):
    CALLS.append(len(completions))
    return [-abs(20 - len(completion)) for completion in completions]


training_args = GRPOConfig(
    output_dir="Qwen2-0.5B-GRPO",
    logging_steps=1,
    use_vllm=True,
    vllm_mode="colocate",
    vllm_tensor_parallel_size=1,
    vllm_gpu_memory_utilization=0.3,
    max_prompt_length=512,
    max_completion_length=32,
    max_steps=2,
    num_generations=4,
    num_train_epochs=1,
    per_device_train_batch_size=4,
    push_to_hub=False,
    report_to=None,
)
trainer = GRPOTrainer(
    model="model", reward_funcs=reward_len, args=training_args, train_dataset=load_dataset("short", split="train")
)
trainer.train()
