"""The curriculum: draws problems by the success rate of the policy on them.

A curriculum gives each row a weight from 0 to 1. The order walks through its permutations as ever and draws a row that
comes up with this probability, so a weight of 1 everywhere is the plain order, and 0 leaves a row out. What a
curriculum has seen is part of the checkpoint: a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

from groupwise.rounding import reaches
from groupwise.types import ScoredGroup


@dataclass(frozen=True)
class Seen:
    """The outcome of a group: the problem's number in the data set, and the share of its completions that solved it."""

    problem: int
    success: float


class Curriculum(Protocol):
    """Weighs rows by what the policy made of them."""

    def weight(self, row: int) -> float:
        """Probability, 0 to 1, that the order draws this row when it comes up."""
        ...

    def observe(self, seen: Sequence[Seen]) -> list[str]:
        """Take in the groups of a finished step; returns what changed, in words for the record."""
        ...

    def metrics(self) -> dict[str, float]:
        """The `curriculum/...` numbers of a step."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        ...


def successes(groups: Sequence[ScoredGroup], reward: str | None, solved_at: float) -> list[Seen]:
    """Success rate of each problem: a completion solves it with `solved_at` or more of that reward function.

    Without a function's name the weighted sum is read. A group that is unscored is left out.
    """
    seen = []
    for group in groups:
        values = group.reward if reward is None else group.rewards[reward]
        scored = [value for value in values if value is not None]
        if scored:
            seen.append(Seen(group.problem.index, fmean(reaches(value, solved_at) for value in scored)))
    return seen
