"""The quick start of TRL's documentation: no configuration, a reward of TRL's own."""

from datasets import load_dataset

from groupwise.trl import GRPOTrainer
from groupwise.trl.rewards import accuracy_reward

dataset = load_dataset("math", split="train")

trainer = GRPOTrainer(model="model", reward_funcs=accuracy_reward, train_dataset=dataset)
trainer.train()
