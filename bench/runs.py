"""Runs of a recipe in processes of their own, and what they recorded."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import common


def train(recipe: Path, folder: Path, settings: Sequence[str], *, shuffle_rewards: bool = False) -> dict[str, Any]:
    """Train `recipe` into the empty `folder`; the run in a few numbers."""
    shutil.rmtree(folder, ignore_errors=True)
    arguments = [str(recipe), "--set", f"output_dir={folder}"]
    for setting in settings:
        arguments += ["--set", setting]
    if shuffle_rewards:
        arguments.append("--shuffle-rewards")
    start = perf_counter()
    common.run_python(sys.executable, "run_recipe.py", *arguments, log=folder.with_suffix(".log"))
    return {"wall_seconds": perf_counter() - start, **summarize(read_metrics(folder))}


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's steps."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summarize(metrics: Sequence[dict[str, Any]], last: int = 10) -> dict[str, Any]:
    """First reward, mean of the last steps, time and memory of a run."""
    rewards = [step["reward"] for step in metrics]
    return {
        "num_steps": len(metrics),
        "first_reward": rewards[0],
        f"last_{last}_reward": fmean(rewards[-last:]),
        "step_seconds": common.spread([step["step_time"] for step in metrics]),
        "peak_bytes": max(step["memory_peak_bytes"] or 0 for step in metrics),
        "last_kl": metrics[-1].get("kl"),
        "sampling_mismatch": _mean_of(metrics, "sampling/mismatch"),
        "evaluations": [
            {key: step[key] for key in ("step", "eval_reward", "eval_reward_stderr", "eval_greedy_reward")}
            for step in metrics
            if step.get("eval_reward") is not None
        ],
        "rewards": rewards,
    }


def _mean_of(metrics: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [step[key] for step in metrics if step.get(key) is not None]
    return fmean(values) if values else None
