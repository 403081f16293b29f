"""TRL's own rewards and callbacks, kept from TRL, in the trainer."""

from datasets import load_dataset

from groupwise.trl import BEMACallback, GRPOConfig, GRPOTrainer
from groupwise.trl.rewards import accuracy_reward, get_soft_overlong_punishment, think_format_reward

trainer = GRPOTrainer(
    model="model",
    reward_funcs=[
        accuracy_reward,
        think_format_reward,
        get_soft_overlong_punishment(max_completion_len=16, soft_punish_cache=4),
    ],
    args=GRPOConfig(
        output_dir="own", max_steps=2, max_completion_length=16, logging_steps=1, report_to="none", save_strategy="no"
    ),
    train_dataset=load_dataset("math", split="train"),
    callbacks=[BEMACallback(update_freq=1)],
)
trainer.train()
