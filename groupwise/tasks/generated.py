"""Generated problems: seeded, in levels of difficulty, split into train and eval by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from groupwise.errors import ConfigError, DataError
from groupwise.tasks.asking import Asking, check_whole

Split = Literal["train", "eval"]

EVAL_SHARE = 0.2
"""Share of all possible problems that is never trained on."""

MAX_MISSES = 2000
"""Problems made in a row that bring nothing new, before the level counts as exhausted."""


@dataclass(frozen=True)
class Question:
    """One generated question; `key` is equal for problems that are the same but for their spelling (3 + 4, 4 + 3)."""

    text: str
    key: str
    columns: dict[str, Any]


Make = Callable[[Random, int], Question]
"""One problem of a level."""


@dataclass(frozen=True)
class Generated(Asking):
    """The settings of a task with levels of difficulty."""

    level: int = 1
    """Difficulty, from 1."""
    max_level: int | None = None
    """Problems of every level from `level` to this one, for `curriculum: levels`; null makes one level."""
    size: int = 1000
    """Problems to train on, for each level; fewer where there are not so many."""
    eval_size: int = 100
    """Held-out problems, for each level."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("level", 1), ("size", 1), ("eval_size", 1), ("seed", 0)):
            check_whole("task", name, getattr(self, name), least)
        if self.max_level is not None and not (isinstance(self.max_level, int) and self.max_level >= self.level):
            raise ConfigError(f"task: max_level is {self.max_level!r}; expected {self.level} (the level) or more.")

    @property
    def levels(self) -> range:
        """The levels that problems are made for."""
        return range(self.level, (self.max_level or self.level) + 1)

    def rows_of(self, split: Split, make: Make, name: str) -> list[dict[str, Any]]:
        """Rows of one split with `prompt`, `level` and the columns of the questions, no problem twice."""
        wanted = self.size if split == "train" else self.eval_size
        rows = []
        for level in self.levels:
            random = Random(f"{name}/{self.seed}/{level}")
            found = _distinct(lambda rng, at=level: make(rng, at), random, split, wanted)  # type: ignore[misc]
            if not found:
                raise DataError(f"Task {name} has no problem of level {level} for {split}. Choose another level.")
            rows += [{"prompt": self.prompt(q.text), "level": level, **q.columns} for q in found]
        return rows


def split_of(key: str) -> Split:
    """The split of a problem, whatever the seed and the size: by a hash of its content."""
    digest = hashlib.sha256(key.encode()).digest()
    return "eval" if int.from_bytes(digest[:8]) < EVAL_SHARE * 2**64 else "train"


def _distinct(make: Callable[[Random], Question], random: Random, split: Split, wanted: int) -> Sequence[Question]:
    """Up to `wanted` problems of a split; spelt differently, one key may come more than once."""
    found: dict[str, Question] = {}
    misses = 0
    while len(found) < wanted and misses < MAX_MISSES:
        question = make(random)
        is_new = split_of(question.key) == split and question.text not in found
        misses = 0 if is_new else misses + 1
        if is_new:
            found[question.text] = question
    return list(found.values())


def check_max_level(task: Generated, name: str, most: int) -> None:
    """Raise `ConfigError` for a level that the task does not have."""
    if task.levels[-1] > most:
        raise ConfigError(f"task {name}: there are levels 1 to {most}, not {task.levels[-1]}.")
