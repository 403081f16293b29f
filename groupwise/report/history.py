"""The curves of a run from its records, and their trend in one sentence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groupwise.runs.metrics import held_out_rewards
from groupwise.runs.text import duration, moving_average, number

Record = Mapping[str, Any]

ENDS = 10
"""Steps averaged at the end (and, in long runs, at the start) for the figures in words."""

PARTS = ("rollout", "reward", "learn", "other")

OF_TURNS = (
    ("turns a completion, last step", "environment/turns/mean"),
    ("calls a completion, last step", "tools/call_frequency"),
)


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


@dataclass(frozen=True, slots=True)
class CurveChange:
    """The reward at the two ends of a run."""

    first: float
    last: float
    num_first: int
    num_last: int
    error: float | None
    """Standard error of the difference; None with too few steps."""

    @property
    def difference(self) -> float:
        return self.last - self.first

    @property
    def verdict(self) -> str:
        if self.error is None:
            return "There are too few steps to see whether the model learns."
        if abs(self.difference) <= 2 * self.error:
            return f"The reward did not clearly move ({number(self.difference)} with a standard error of " + (
                f"{number(self.error)})."
            )
        direction = "rose" if self.difference > 0 else "fell"
        return f"The reward {direction} from {number(self.first)} to {number(self.last)}."


def series(records: Sequence[Record], key: str) -> Series:
    """Where `key` was measured."""
    points = [(int(r["step"]), float(r[key])) for r in records if r.get(key) is not None]
    return Series(tuple(step for step, _ in points), tuple(value for _, value in points))


def function_names(records: Sequence[Record]) -> list[str]:
    """Reward functions with a mean in the records, in order of appearance."""
    keys = dict.fromkeys(key for record in records for key in record)
    return [k[len("rewards/") : -len("/mean")] for k in keys if k.startswith("rewards/") and k.endswith("/mean")]


def reward_change(records: Sequence[Record]) -> CurveChange | None:
    """First and last reward: the first 5% of the steps (1 to 10 of them) against the last ten (a third at most)."""
    values = series(records, "reward").values
    if len(values) < 2:
        return None
    num_first = max(1, min(ENDS, len(values) // 20))
    num_last = max(1, min(ENDS, len(values) // 3))
    first, last = values[:num_first], values[-num_last:]
    return CurveChange(statistics.fmean(first), statistics.fmean(last), num_first, num_last, _error(values, num_first))


def _error(values: Sequence[float], num_first: int) -> float | None:
    """Standard error of the difference, from the spread of steps at the two ends."""
    window = min(ENDS, len(values) // 3)
    if window < 2:
        return None
    start, end = statistics.variance(values[:window]), statistics.variance(values[-window:])
    return math.sqrt(start / num_first + end / window)


def total(records: Sequence[Record], key: str) -> float:
    return math.fsum(series(records, key).values)


def last(records: Sequence[Record], key: str) -> float | None:
    values = series(records, key).values
    return values[-1] if values else None


def seconds_trained(records: Sequence[Record]) -> float:
    return total(records, "step_time") + evaluation_seconds(records)


def in_short(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The figures at the top of the report: (label, value)."""
    change = reward_change(records)
    steps = len(series(records, "step").steps)
    figures: list[tuple[str, str]] = [("steps", f"{steps:,}")]
    if change is not None:
        figures = [
            (f"first reward ({_mean_of(change.num_first, 'first')})", number(change.first)),
            (f"last reward ({_mean_of(change.num_last, 'last')})", number(change.last)),
            ("change", ("+" if change.difference > 0 else "") + number(change.difference)),
            *figures,
        ]
    for label, key in (("updates", "updates"), ("tokens", "num_tokens")):
        value = last(records, key)
        if value is not None:
            figures.append((label, f"{value:,.0f}"))
    figures += [(label, number(value)) for label, key in OF_TURNS if (value := last(records, key)) is not None]
    if total(records, "step_time"):
        figures.append(("time", duration(seconds_trained(records))))
    speeds = series(records, "tokens_per_second").values
    if speeds:
        figures.append(("completion tokens/s (median)", number(statistics.median(speeds))))
    return figures


def _mean_of(count: int, which: str) -> str:
    return f"{which} step" if count == 1 else f"mean of the {which} {count} steps"


def evaluation_seconds(records: Sequence[Record]) -> float:
    """Seconds of all evaluations."""
    keys = dict.fromkeys(key for record in records for key in record if key.startswith("time/eval"))
    return sum(total(records, key) for key in keys)


def evaluation_rows(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    """(which, first evaluation, last evaluation), each with its standard error."""
    rows = []
    for label, key in held_out_rewards(key for record in records for key in record):
        found = [record for record in records if record.get(key) is not None]
        if found:
            rows.append((label, _with_error(found[0], key), _with_error(found[-1], key)))
    return rows


def _with_error(record: Record, key: str) -> str:
    error = record.get(f"{key}_stderr")
    text = number(record[key]) + (f" ± {number(error)}" if error is not None else "")
    return f"{text} (step {record['step']})"
