"""Rank correlation of two reward functions inside groups, where advantages are made."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Protocol

from groupwise.rounding import differ

CONFLICT = -0.5
"""Rank correlation inside groups from which on each function takes back half of the order that the other gives."""
SURE = 2.0
"""Standard errors that a correlation must lie from 0."""
FEWEST_PAIRS = 12
"""Completions that a correlation is worth looking at from."""


class InGroups(Protocol):
    """The rewards of one function, group by group."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def groups(self) -> Sequence[Sequence[float | None]]: ...


@dataclass(frozen=True, slots=True)
class Agreement:
    """Rank correlation of two functions over the groups in which the rewards of both differ."""

    first: str
    second: str
    rho: float
    """Spearman's, pooled over groups; -1 opposite orders, 1 the same order. A negative weight turns the order round."""
    num_pairs: int
    """Completions it was measured on."""
    num_groups: int

    @property
    def error(self) -> float:
        """Standard error of a correlation of 0: 1 / sqrt(degrees of freedom)."""
        return 1 / math.sqrt(max(self.num_pairs - self.num_groups, 1))

    @property
    def is_conflict(self) -> bool:
        """Whether the two pull against each other, beyond chance."""
        return self.num_pairs >= FEWEST_PAIRS and self.rho <= CONFLICT and self.rho <= -SURE * self.error


def agreements(functions: Sequence[InGroups]) -> list[Agreement]:
    """Of every two functions that differ together in some group."""
    found = (agreement(a, b) for a, b in combinations([f for f in functions if f.weight != 0], 2))
    return [each for each in found if each is not None]


def agreement(a: InGroups, b: InGroups) -> Agreement | None:
    """Of two functions; None where they differ together in no group.

    Ranks are centred in each group, so that easy and hard problems do not count as agreement.
    """
    products, squares_a, squares_b, num_pairs, num_groups = 0.0, 0.0, 0.0, 0, 0
    for x, y in _both_judged(a, b):
        if not (differ(x) and differ(y)):
            continue
        ranks_x, ranks_y = _centred_ranks(x), _centred_ranks(y)
        products += _dot(ranks_x, ranks_y)
        squares_a += _dot(ranks_x, ranks_x)
        squares_b += _dot(ranks_y, ranks_y)
        num_pairs, num_groups = num_pairs + len(x), num_groups + 1
    if not num_groups:
        return None
    sign = math.copysign(1, a.weight * b.weight)
    return Agreement(a.name, b.name, sign * products / math.sqrt(squares_a * squares_b), num_pairs, num_groups)


def _both_judged(a: InGroups, b: InGroups) -> Iterator[tuple[list[float], list[float]]]:
    for group_a, group_b in zip(a.groups, b.groups, strict=True):
        pairs = [(x, y) for x, y in zip(group_a, group_b, strict=True) if x is not None and y is not None]
        yield [x for x, _ in pairs], [y for _, y in pairs]


def _centred_ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0, ties at their mean, less the mean rank."""
    ordered = sorted(values)
    ranks = {value: fmean(i for i, each in enumerate(ordered) if each == value) for value in set(ordered)}
    return [ranks[value] - (len(ordered) - 1) / 2 for value in values]


def _dot(x: Sequence[float], y: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(x, y, strict=True))
