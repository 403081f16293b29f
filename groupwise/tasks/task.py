"""A task: problems, held-out problems and rewards under one name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from groupwise.data.problems import Problems
from groupwise.rewards.function import RewardFunction
from groupwise.tasks.generated import Split


@dataclass(frozen=True)
class Task:
    """Problems and rewards of a task. Pass it to `GRPOTrainer` as train_dataset, eval_dataset and reward_funcs."""

    name: str
    problems: Problems
    eval_problems: Problems | None
    rewards: Sequence[RewardFunction]


def bind(kind: Any, name: str) -> Task:
    """The task that a kind's settings describe. A kind has `rows(split)` and `rewards()`; see arithmetic.py."""
    info = {"task": name, "settings": {key: str(value) for key, value in vars(kind).items()}}

    def problems(split: Split) -> Problems:
        return Problems(kind.rows(split), name=name, info={**info, "split": split})

    is_held_out = getattr(kind, "eval_split", "eval") is not None
    return Task(name, problems("train"), problems("eval") if is_held_out else None, tuple(kind.rewards()))
