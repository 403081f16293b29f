"""A job that may be stopped: it looks for checkpoint-N in its folder and goes on from the last."""

import os
import re
import sys

from datasets import load_dataset

from groupwise.trl import GRPOConfig, GRPOTrainer

CALLS = []
OUTPUT_DIR = os.environ.get("OUTPUT_DIR", "job")


def reward_len(completions, **kwargs):
    CALLS.append(len(completions))
    return [-abs(20 - len(completion)) for completion in completions]


training_args = GRPOConfig(
    output_dir=OUTPUT_DIR,
    beta=0.04,
    save_strategy="steps",
    save_steps=2,
    logging_steps=2,
    save_total_limit=2,
    max_completion_length=16,
    max_steps=int(sys.argv[1]),
    report_to="none",
)
trainer = GRPOTrainer(
    model="model",
    reward_funcs=reward_len,
    args=training_args,
    train_dataset=load_dataset("short", split="train"),
)


def _latest_checkpoint(base_dir):
    if not os.path.isdir(base_dir):
        return None
    found = [
        (int(m[1]), os.path.join(base_dir, m[0]))
        for m in map(re.compile(r"checkpoint-(\d+)$").match, os.listdir(base_dir))
        if m
    ]
    return max(found)[1] if found else None


resume_path = _latest_checkpoint(OUTPUT_DIR)
if resume_path:
    trainer.train(resume_from_checkpoint=resume_path)
else:
    trainer.train()
