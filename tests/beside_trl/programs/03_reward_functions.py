"""The kinds of reward functions that TRL's documentation shows, all of them in one run."""

import asyncio
import re

from datasets import Dataset

from groupwise.trl import GRPOConfig, GRPOTrainer

CALLS = []
SEEN = {}

tasks = [("the value of 1 + 1", "2", "math"), ("name a colour", "red", "colour")]
dataset = Dataset.from_list([{"prompt": p, "ground_truth": g, "task": t} for p, g, t in tasks * 2])


def by_ids(completion_ids, **kwargs):
    CALLS.append(len(completion_ids))
    SEEN["ids"] = type(completion_ids[0][0])
    return [float(len(ids)) for ids in completion_ids]


def by_characters(completions, **kwargs):
    SEEN["keywords"] = set(kwargs)
    return [float(len(set(text))) for text in completions]


def by_ground_truth(prompts, completions, ground_truth, **kwargs):
    found = [re.search(r"\d", completion) for completion in completions]
    return [float(hit is not None and hit[0] == truth) for hit, truth in zip(found, ground_truth, strict=True)]


def math_only(completions, task, **kwargs):
    return [float("1" in text) if kind == "math" else None for text, kind in zip(completions, task, strict=True)]


async def patient(prompts, completions, **kwargs):
    await asyncio.sleep(0.001)
    return [0.5] * len(completions)


def writes(completions, trainer_state, log_extra, log_metric, **kwargs):
    SEEN.setdefault("steps", []).append(trainer_state.global_step)
    log_extra("first", [text[:1] for text in completions])
    log_metric("longest", float(max(map(len, completions))))
    return [0.0] * len(completions)


def by_keywords(completions, **kwargs):
    state = kwargs.get("trainer_state")
    kwargs["log_metric"]("stage", float(state.global_step > 0))
    return [float(state.global_step)] * len(completions)


args = GRPOConfig(
    output_dir="rewards",
    per_device_train_batch_size=8,
    num_generations=4,
    max_completion_length=8,
    max_steps=3,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
)
trainer = GRPOTrainer(
    model="model",
    reward_funcs=[by_ids, by_characters, by_ground_truth, math_only, patient, writes, by_keywords],
    args=args,
    train_dataset=dataset,
)
trainer.train()
