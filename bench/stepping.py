"""What the two sides of step_vs_trl.py share: the job, the clock, the reward.

A job is a JSON file: model folder, prompts in the order they are drawn, sizes of a step, number of steps.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

from common import status_bytes, versions
from transformers import TrainerCallback


class StepClock(TrainerCallback):
    """Notes when each step ends. The time between two ends is a whole step, with whatever stands around it."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.load_peak_bytes = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.load_peak_bytes = status_bytes("VmHWM")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(perf_counter())

    def step_seconds(self, num_warmup: int) -> list[float]:
        """Seconds of every step after the warm-up."""
        return [end - start for start, end in zip(self.ends[num_warmup - 1 :], self.ends[num_warmup:], strict=False)]


class Reward:
    """Minus the distance from 50 characters; counts the tokens that were really sampled."""

    __name__ = "length"

    def __init__(self) -> None:
        self.num_tokens = 0
        self.lengths: set[int] = set()

    def __call__(self, completions: list[str], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        self.num_tokens += sum(len(ids) for ids in completion_ids)
        self.lengths |= {len(ids) for ids in completion_ids}
        return [-abs(50.0 - len(text)) for text in completions]


def read_job() -> tuple[dict[str, Any], Path]:
    """The job and where its answer goes."""
    parser = argparse.ArgumentParser(description="One side of step_vs_trl.py, which starts it.")
    parser.add_argument("job", type=Path)
    parser.add_argument("answer", type=Path)
    arguments = parser.parse_args()
    return json.loads(arguments.job.read_text()), arguments.answer


def write_answer(path: Path, job: dict[str, Any], clock: StepClock, reward: Reward, history: list[dict]) -> None:
    """What one process measured."""
    answer = {
        "step_seconds": clock.step_seconds(job["num_warmup"]),
        "load_peak_bytes": clock.load_peak_bytes,
        "peak_bytes": status_bytes("VmHWM"),
        "end_bytes": status_bytes("VmRSS"),
        "completion_tokens": reward.num_tokens,
        "completion_lengths": sorted(reward.lengths),
        "tokens": next((h["num_tokens"] for h in reversed(history) if "num_tokens" in h), None),
        "rewards": [h["reward"] for h in history if "reward" in h],
        "versions": versions(),
    }
    path.write_text(json.dumps(answer))
