"""The shapes in which public programs extend the trainer, one for each word of the command line."""

import sys

from datasets import load_dataset

from groupwise.trl import GRPOConfig, GRPOTrainer

CALLS = []


def method(name, result=None):
    """A method that notes its call and then does what the parent does."""

    def override(self, *args, **kwargs):
        CALLS.append(name)
        return getattr(GRPOTrainer, name)(self, *args, **kwargs)

    return override


(name,) = sys.argv[1:]
Trainer = type("Trainer", (GRPOTrainer,), {name: method(name)})


def reward_len(completions, **kwargs):
    return [float(len(completion)) for completion in completions]


args = GRPOConfig(
    output_dir="subclass", per_device_train_batch_size=4, num_generations=4, max_completion_length=8, max_steps=2
)
args.logging_steps = 1
trainer = Trainer(model="model", reward_funcs=reward_len, args=args, train_dataset=load_dataset("short", split="train"))
trainer.train()
