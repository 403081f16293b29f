"""A script for older GPUs: fp16."""

from datasets import load_dataset

from groupwise.trl import GRPOConfig, GRPOTrainer

training_args = GRPOConfig(
    output_dir="half",
    per_device_train_batch_size=4,
    num_generations=4,
    max_completion_length=16,
    learning_rate=1e-5,
    fp16=True,
    logging_steps=1,
    max_steps=2,
)
trainer = GRPOTrainer(
    model="model",
    reward_funcs=lambda completions, **kwargs: [float(len(c)) for c in completions],
    args=training_args,
    train_dataset=load_dataset("short", split="train"),
)
trainer.train()
