"""The record of a run's start: its recipe, what was decided from it, versions, git state and hardware."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groupwise import __version__
from groupwise.config import Settings
from groupwise.data.problems import Problems
from groupwise.environments.pool import EnvironmentPool
from groupwise.lifecycle.build import RunParts
from groupwise.lifecycle.memory_plan import Machine, plan_memory
from groupwise.policy.load_model import count_parameters
from groupwise.rewards import RewardScorer
from groupwise.rewards.sandbox.backend_choice import sandbox_programs, sandboxes_in_use
from groupwise.rollout.engine import Engine
from groupwise.rollout.served.served_engine import ServedEngine
from groupwise.train.schedule import Schedule


def summary(parts: RunParts, schedule: Schedule, run_name: str) -> dict[str, Any]:
    """The head of the screen."""
    policy = parts.policy
    return {
        "run_name": run_name,
        "model": policy.name,
        "parameters": str(count_parameters(policy.model)),
        "objective": parts.config.preset,
        "steps": schedule.num_steps,
        "batch": parts.config.describe()[0],
        "device": f"{policy.policy_model.device.type}, {str(policy.policy_model.dtype).removeprefix('torch.')}",
        "engine": parts.engine.capabilities.name,
    }


def record_of_start(
    recipe: dict[str, Any], recipe_folder: Path | None, parts: RunParts, optimizer: str
) -> dict[str, Any]:
    """config.json: the resolved recipe, where its own files lie, and everything that was decided from it."""
    policy, problems = parts.policy, parts.problems
    parameters = count_parameters(policy.model)
    return {
        "recipe": recipe,
        "recipe_folder": None if recipe_folder is None else str(recipe_folder),
        "description": parts.config.describe(),
        "model": {
            "name": policy.name,
            "num_parameters": parameters.total,
            "num_trainable_parameters": parameters.trainable,
            "compute_dtype": str(policy.policy_model.dtype).removeprefix("torch."),
            "slow_path_because": policy.policy_model.why_plain,
            "no_kernels_because": None
            if policy.policy_model.fused is None
            else policy.policy_model.fused.why_no_kernels,
        },
        "data": {
            **problems.problems.info,
            "num_problems": len(problems),
            "num_truncated": problems.num_truncated,
            "num_dropped": problems.num_dropped,
        },
        "used": {
            "optimizer": optimizer,
            "engine": parts.engine.capabilities.name,
            "stop_ids": list(policy.stop_ids),
            **({} if parts.inputs.policy_loss is None else {"policy_loss": parts.inputs.loss_name}),
            **_of_environment(parts.inputs.environment),
        },
        "versions": versions(),
        "git": git_state(),
        "hardware": hardware(policy.policy_model.device),
        "sandbox": sandboxes_in_use(),
        "sandbox_programs": sandbox_programs(),
    }


def plan_of(parts: RunParts, num_steps: int, num_ranks: int, checked: Mapping[str, float | None]) -> dict[str, Any]:
    """What the run is expected to take: memory as it is counted at the start, and what `groupwise check` measured."""
    policy = parts.policy.policy_model
    where = Machine(num_ranks, policy.device, policy.dtype)
    memory = plan_memory(parts.policy.model, parts.config, where, policy.limits)
    measured = {key: value for key, value in checked.items() if value is not None}
    return {"num_steps": num_steps, "memory": dict(memory.parts), "memory_bytes": memory.total_bytes, **measured}


def _of_environment(pool: EnvironmentPool | None) -> dict[str, Any]:
    """The name of what answers, and the tools that prompts show."""
    if pool is None:
        return {}
    names = [schema["function"]["name"] for kind in pool.kinds.values() for schema in kind.schemas]
    return {"environment": pool.name, "tools": list(dict.fromkeys(names))}


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "groupwise": __version__}
    for package in ("torch", "transformers", "peft", "datasets", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_state() -> dict[str, Any] | None:
    """Commit of the folder the run was started in, or None outside a repository."""

    def run(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        return {"commit": run("rev-parse", "HEAD"), "is_dirty": bool(run("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware(device: torch.device) -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def machine(model: nn.Module, engine: Engine) -> dict[str, Any]:
    """What the last bits of a run depend on."""
    servers = {"servers": engine.capabilities.name} if isinstance(engine, ServedEngine) else {}
    return {**versions(), **hardware(next(model.parameters()).device), **servers}


def recipe_of(
    config: Settings, model: str, problems: Problems, scorer: RewardScorer, peft_config: Any
) -> dict[str, Any]:
    """The recipe of a run that was written in Python: names where a file would have them."""
    lora = None if peft_config is None else {k: _plain(v) for k, v in peft_config.to_dict().items() if v is not None}
    return {
        "model": model,
        "data": problems.name,
        "rewards": [{"function": f.name, "weight": f.weight, **f.shaping.settings} for f in scorer.functions],
        "lora": lora,
        **config.resolved(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset | Sequence) and not isinstance(value, str):
        return sorted(map(str, value))
    return value if isinstance(value, str | int | float | bool) else str(value)
