"""Problems, rewards and prompt bound together, one file per task.

A task's file holds one frozen dataclass: its fields are the task's parameters, `rows(split)` its problems, `rewards()`
its reward functions. `arithmetic.py` is the place to start.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from groupwise.config.task_spec import TaskSpec
from groupwise.rewards import resolve_rewards
from groupwise.rewards.function import RewardFunction
from groupwise.rewards.sandbox.held import check_sandboxes
from groupwise.tasks.task import Task, bind

KINDS = {
    "arithmetic": "Arithmetic",
    "countdown": "Countdown",
    "gsm8k": "GSM8K",
    "math": "Math",
    "reasoning-gym": "ReasoningGym",
}
"""Name that a recipe may give as `task` -> its class, in the file of that name."""

NAMES = tuple(KINDS)

__all__ = ["KINDS", "NAMES", "Task", "kind_of", "load_task", "parameters", "recipe_rewards", "task_rewards"]


def load_task(task: str | Mapping[str, Any] | TaskSpec, folder: Path | None = None) -> Task:
    """The task that a recipe names: `countdown?max_number=20`, or a mapping with `name` and parameters.

    `folder` is where a data file is looked for that the working directory does not have.

    Raises:
        ConfigError, DataError: no such task, a parameter it does not have, data that cannot be read.
    """
    kind, name = _made(task, folder)
    return bind(kind, name)


def task_rewards(task: str | Mapping[str, Any] | TaskSpec, folder: Path | None = None) -> Sequence[RewardFunction]:
    """The rewards of a task alone: no problem is made, nothing is fetched."""
    rewards: Sequence[RewardFunction] = _made(task, folder)[0].rewards()
    return rewards


def recipe_rewards(
    task: TaskSpec | None, own: Sequence[Mapping[str, Any]], weights: Sequence[float] | None, folder: Path | None
) -> list[RewardFunction]:
    """The rewards of a recipe, those of its task first, before any problem is made.

    Raises:
        ConfigError: no such reward, or one that has no sandbox here and needs one.
    """
    of_task = () if task is None else task_rewards(task, folder)
    rewards = resolve_rewards([*of_task, *own], weights=weights, folder=folder)
    check_sandboxes(rewards)
    return rewards


def _made(task: str | Mapping[str, Any] | TaskSpec, folder: Path | None) -> tuple[Any, str]:
    """The task's settings as an object of its class, and the name that the recipe gives."""
    spec = task if isinstance(task, TaskSpec) else TaskSpec.of(task)
    settings = dict(spec.params)
    if spec.gym_task is not None:
        own = parameters("reasoning-gym")
        params = {name: settings.pop(name) for name in list(settings) if name not in own}
        settings |= {"task": spec.gym_task, "params": params}
    kind = kind_of(spec.kind)(**settings)
    path = getattr(kind, "path", None)
    if path is not None and folder is not None and (folder / path).exists() and not Path(path).exists():
        kind = replace(kind, path=str(folder / path))
    return kind, spec.name


def kind_of(name: str) -> Any:
    """The class of a task."""
    return getattr(importlib.import_module(f"groupwise.tasks.{name.replace('-', '_')}"), KINDS[name])


def parameters(name: str) -> tuple[str, ...]:
    """The parameters of a task in a recipe; reasoning-gym's tasks have their own besides."""
    hidden = {"task", "params"} if name == "reasoning-gym" else set()
    return tuple(field.name for field in fields(kind_of(name)) if field.name not in hidden)
