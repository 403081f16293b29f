"""The metrics of a run as one array a key, and curves of few points made from them."""

from __future__ import annotations

import itertools
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOT_MEASURED = math.nan

Curve = dict[str, list[float | None]]
"""`mean` of each point; `low` and `high` too where a point stands for several steps."""


class Columns:
    """Numbers by key and step, 8 bytes each; NaN where one was not measured."""

    def __init__(self) -> None:
        self.steps = array("q")
        self._values: dict[str, array[float]] = {}

    def __len__(self) -> int:
        return len(self.steps)

    def add(self, record: Mapping[str, Any]) -> None:
        """The record of one more step."""
        self.steps.append(record["step"])
        for key, value in record.items():
            if key not in ("step", "schema_version"):
                column = self._values.get(key)
                if column is None:
                    column = self._values[key] = array("d", [NOT_MEASURED]) * (len(self.steps) - 1)
                column.append(NOT_MEASURED if value is None or math.isinf(value) else value)
        for column in self._values.values():
            if len(column) < len(self.steps):
                column.append(NOT_MEASURED)

    def keys(self) -> list[str]:
        """Keys that were measured at least once, in order of appearance."""
        return [key for key, column in self._values.items() if any(v == v for v in column)]

    def last(self, key: str) -> float | None:
        """The latest measured value."""
        return next((v for v in reversed(self._values.get(key, ())) if v == v), None)

    def recent(self, key: str, count: int) -> list[float]:
        """The measured values among the last `count` steps."""
        return [v for v in self._values.get(key, array("d"))[-count:] if v == v]

    def records(self) -> list[dict[str, Any]]:
        """The steps as records again, those of a few keys that words are made from."""
        keys = [key for key in ("reward", "step_time") if key in self._values]
        rows = zip(*(self._values[key] for key in keys), strict=True) if keys else ((),) * len(self.steps)
        return [
            {"step": step, **{key: v if v == v else None for key, v in zip(keys, row, strict=True)}}
            for step, row in zip(self.steps, rows, strict=True)
        ]

    def curves(self, keys: Iterable[str], first: int, last: int, num_points: int) -> dict[str, Any]:
        """Curves over the steps `first` to `last`, both included, of at most `num_points` points.

        Returns:
            `steps`, the last step of each point, and `curves`: key -> `Curve`. Keys that nothing measured are left out.
        """
        start, end = bisect_left(self.steps, first), bisect_right(self.steps, last)
        count = min(num_points, end - start)
        edges = [start + round(i * (end - start) / count) for i in range(count + 1)] if count else [start]
        made = {
            key: _curve(self._values[key], edges, is_thinned=count < end - start) for key in keys if key in self._values
        }
        return {
            "steps": [self.steps[edge - 1] for edge in edges[1:]],
            "curves": {key: curve for key, curve in made.items() if any(v is not None for v in curve["mean"])},
        }


def _curve(column: Sequence[float], edges: Sequence[int], *, is_thinned: bool) -> Curve:
    if not is_thinned:
        return {"mean": [_short(v) for v in column[edges[0] : edges[-1]]]}
    points = [[v for v in column[a:b] if v == v] for a, b in itertools.pairwise(edges)]
    return {
        "mean": [_short(math.fsum(point) / len(point)) if point else None for point in points],
        "low": [_short(min(point)) if point else None for point in points],
        "high": [_short(max(point)) if point else None for point in points],
    }


def _short(value: float) -> float | None:
    """Six digits: more than a screen has."""
    return float(f"{value:.6g}") if value == value else None
