"""The cookbook's online training with a vLLM server."""

from datasets import load_dataset

from groupwise.trl import GRPOConfig, GRPOTrainer

CALLS = []

dataset = load_dataset("gsm", split="train").map(
    lambda row: {"prompt": [{"role": "user", "content": row["question"]}]}, remove_columns=["question"]
)


def format_reward(completions, **kwargs):
    CALLS.append(len(completions))
    return [float("<think>" in completion[0]["content"]) for completion in completions]


training_args = GRPOConfig(
    output_dir="online",
    learning_rate=1e-5,
    remove_unused_columns=False,
    gradient_accumulation_steps=2,
    num_train_epochs=1,
    bf16=True,
    use_vllm=True,
    vllm_server_timeout=120.0,
    max_completion_length=16,
    num_generations=4,
    max_prompt_length=128,
    report_to=["none"],
    logging_steps=1,
    push_to_hub=False,
    save_strategy="steps",
    save_steps=10,
)
trainer = GRPOTrainer(model="model", reward_funcs=[format_reward], args=training_args, train_dataset=dataset)
trainer.train()
trainer.save_model(training_args.output_dir)
trainer.push_to_hub(dataset_name="AI-MO/NuminaMath-TIR")
