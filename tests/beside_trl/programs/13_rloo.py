"""TRL's RLOO example: bfloat16 weights, LoRA, rollouts that pay for several steps, vLLM in the same process."""

import torch
from datasets import load_dataset
from peft import LoraConfig

from groupwise.trl import RLOOConfig, RLOOTrainer
from groupwise.trl.rewards import accuracy_reward, think_format_reward

train_dataset, eval_dataset = load_dataset("math", split=["train", "test"])

training_args = RLOOConfig(
    output_dir="RLOO",
    model_init_kwargs={"dtype": torch.bfloat16},
    learning_rate=1e-5,
    log_completions=True,
    num_completions_to_print=2,
    max_completion_length=32,
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    steps_per_generation=8,
    use_vllm=True,
    vllm_mode="colocate",
    vllm_gpu_memory_utilization=0.5,
    run_name="RLOO-NuminaMath-TIR",
    max_steps=8,
)
trainer = RLOOTrainer(
    model="model",
    args=training_args,
    reward_funcs=[think_format_reward, accuracy_reward],
    train_dataset=train_dataset,
    eval_dataset=eval_dataset,
    peft_config=LoraConfig(target_modules=["q_proj", "v_proj"]),
)
trainer.train()
trainer.save_model(training_args.output_dir)
trainer.push_to_hub(dataset_name="AI-MO/NuminaMath-TIR")
