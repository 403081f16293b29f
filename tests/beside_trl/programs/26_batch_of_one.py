"""A script that sets the batch of one completion, in groups of 4."""

from datasets import load_dataset
from peft import LoraConfig

from groupwise.trl import GRPOConfig, GRPOTrainer


def reward_len(completions, **kwargs):
    return [float(len(completion)) for completion in completions]


training_args = GRPOConfig(
    output_dir="gemma",
    per_device_train_batch_size=1,
    gradient_accumulation_steps=1,
    num_generations=4,
    max_completion_length=16,
    max_steps=2,
)
trainer = GRPOTrainer(
    model="model",
    reward_funcs=[reward_len],
    args=training_args,
    train_dataset=load_dataset("short", split="train"),
    peft_config=LoraConfig(r=4, task_type="CAUSAL_LM"),
)
trainer.train()
