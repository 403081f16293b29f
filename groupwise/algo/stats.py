"""Measurements of the loss that can be added up over micro-batches, and read as plain numbers at the end.

Tensors stay on their device until `floats()`, so that measuring does not make the device wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import reduce

import torch
from torch import Tensor

Number = float | Tensor


@dataclass(frozen=True, slots=True)
class Sum:
    """A total: micro-batch losses add up to the loss of the optimizer step."""

    total: Number

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.total + other.total)

    def __float__(self) -> float:
        return float(self.total)


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean, as sum and count; without any count it is not a number."""

    total: Number
    count: Number

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def __float__(self) -> float:
        return float(self.total) / float(self.count) if float(self.count) else float("nan")


@dataclass(frozen=True, slots=True)
class Max:
    """A maximum."""

    value: Number

    def __add__(self, other: Max) -> Max:
        if isinstance(self.value, Tensor) and isinstance(other.value, Tensor):
            return Max(torch.maximum(self.value, other.value))
        return Max(max(float(self.value), float(other.value)))

    def __float__(self) -> float:
        return float(self.value)


@dataclass(frozen=True, slots=True)
class Min:
    """A minimum; infinite, and then not a number, where there was nothing to compare."""

    value: Number

    def __add__(self, other: Min) -> Min:
        if isinstance(self.value, Tensor) and isinstance(other.value, Tensor):
            return Min(torch.minimum(self.value, other.value))
        return Min(min(float(self.value), float(other.value)))

    def __float__(self) -> float:
        smallest = float(self.value)
        return smallest if smallest != float("inf") else float("nan")


@dataclass(frozen=True, slots=True)
class EffectiveShare:
    """(sum w)^2 / (n sum w^2): the share of the samples that importance weights w leave effective."""

    total: Number
    total_square: Number
    count: Number

    def __add__(self, other: EffectiveShare) -> EffectiveShare:
        return EffectiveShare(
            self.total + other.total, self.total_square + other.total_square, self.count + other.count
        )

    def __float__(self) -> float:
        base = float(self.count) * float(self.total_square)
        return float(self.total) ** 2 / base if base else float("nan")


Stat = Sum | Mean | Max | Min | EffectiveShare


class Stats(dict[str, Stat | None]):
    """Name -> measurement; None was not measured."""

    def merge(self, other: Stats) -> Stats:
        """Both together; a name that only one side measured keeps that side's value."""
        merged = Stats(self)
        for name, theirs in other.items():
            ours = merged.get(name)
            merged[name] = theirs if ours is None else ours if theirs is None else _add(ours, theirs)
        return merged

    @staticmethod
    def merge_all(parts: Iterable[Stats]) -> Stats:
        """All micro-batches of an optimizer step, or of several."""
        return reduce(Stats.merge, parts, Stats())

    def on_host(self) -> Stats:
        """The same as plain numbers, which can go to another process."""
        return Stats({name: None if stat is None else _on_host(stat) for name, stat in self.items()})

    def floats(self) -> dict[str, float | None]:
        """Plain numbers; None where nothing was measured."""
        values = {name: None if stat is None else float(stat) for name, stat in self.items()}
        return {name: None if value is None or value != value else value for name, value in values.items()}


def _on_host(stat: Stat) -> Stat:
    return type(stat)(*(float(getattr(stat, each.name)) for each in fields(stat)))


def _add(ours: Stat, theirs: Stat) -> Stat:
    assert type(ours) is type(theirs), f"{type(ours).__name__} cannot be merged with {type(theirs).__name__}"
    return ours + theirs  # type: ignore[operator]
