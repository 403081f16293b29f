"""The quick start of two years: everything but the folder and logging_steps is a default."""

from datasets import load_dataset

from groupwise.trl import GRPOConfig, GRPOTrainer

CALLS = []

dataset = load_dataset("short", split="train")


def reward_len(completions, **kwargs):
    CALLS.append(len(completions))
    return [-abs(20 - len(completion)) for completion in completions]


training_args = GRPOConfig(output_dir="Qwen2-0.5B-GRPO", logging_steps=10)
trainer = GRPOTrainer(model="model", reward_funcs=reward_len, args=training_args, train_dataset=dataset)
trainer.train()
