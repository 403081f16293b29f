"""The measured points of one key of a run's records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groupwise.runs.text import moving_average

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Series:
    """The measured points of one key."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.steps)

    def averaged(self, window: int) -> Series:
        """Mean of the last `window` points at each of them."""
        return Series(self.steps, tuple(v for v in moving_average(self.values, window) if v is not None))


def series(records: Sequence[Record], key: str) -> Series:
    """Where `key` was measured."""
    points = [(int(r["step"]), float(r[key])) for r in records if r.get(key) is not None]
    return Series(tuple(step for step, _ in points), tuple(value for _, value in points))


def function_names(records: Sequence[Record]) -> list[str]:
    """Reward functions with a mean in the records, in order of appearance."""
    keys = dict.fromkeys(key for record in records for key in record)
    return [k[len("rewards/") : -len("/mean")] for k in keys if k.startswith("rewards/") and k.endswith("/mean")]


def total(records: Sequence[Record], key: str) -> float:
    return math.fsum(series(records, key).values)


def last(records: Sequence[Record], key: str) -> float | None:
    values = series(records, key).values
    return values[-1] if values else None


def evaluation_seconds(records: Sequence[Record]) -> float:
    """Seconds of all evaluations."""
    keys = dict.fromkeys(key for record in records for key in record if key.startswith("time/eval"))
    return sum(total(records, key) for key in keys)


def seconds_trained(records: Sequence[Record]) -> float:
    return total(records, "step_time") + evaluation_seconds(records)
