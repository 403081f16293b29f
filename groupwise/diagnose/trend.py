"""How far a number moved in a run, beside the standard error of that difference."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from groupwise.runs.metrics import held_out_rewards
from groupwise.runs.series import Record, series
from groupwise.runs.text import number

ENDS = 10
"""Steps averaged at the end (and, in long runs, at the start) for the figures in words."""
FEWEST_ENDS = 3
"""Steps at an end of a run from which on their spread is worth something: a run of nine steps."""
SURE = 2.0
"""Standard errors of a difference that is called clear, where the error itself is well known: about 95%."""


@dataclass(frozen=True, slots=True)
class CurveChange:
    """A number at the two ends of a run."""

    first: float
    last: float
    num_first: int
    num_last: int
    trend: float
    """The difference between the last and as many first steps: a third of the run each, ten at most."""
    error: float | None
    """Standard error of the trend; None with too few steps."""
    freedom: float = math.inf
    """Degrees of freedom of the error (Welch and Satterthwaite): few steps measure their own spread badly."""

    @property
    def difference(self) -> float:
        return self.last - self.first

    @property
    def is_up(self) -> bool:
        """Whether it rose by more than the noise carries."""
        return self.error is not None and self.trend > student(self.freedom) * self.error

    @property
    def is_down(self) -> bool:
        return self.error is not None and -self.trend > student(self.freedom) * self.error

    @property
    def verdict(self) -> str:
        if self.error is None:
            return "There are too few steps to see whether the model learns."
        if not (self.is_up or self.is_down):
            return f"The reward did not clearly move ({self.moved})."
        direction = "rose" if self.is_up else "fell"
        return f"The reward {direction} from {number(self.first)} to {number(self.last)}."

    @property
    def moved(self) -> str:
        """The trend and its error in words."""
        return f"{number(self.trend)} with a standard error of {number(self.error)}"

    def __str__(self) -> str:
        return f"{number(self.first)} at first, {number(self.last)} at last (trend {self.moved})"


@dataclass(frozen=True, slots=True)
class Measured:
    """A held-out reward with its standard error over problems."""

    step: int
    value: float
    error: float

    def __str__(self) -> str:
        return f"{number(self.value)} ± {number(self.error)} (step {self.step})"


@dataclass(frozen=True, slots=True)
class HeldOutChange:
    """The first and the last evaluation of the same held-out problems."""

    label: str
    """Which completions: sampled or greedy, and of which set."""
    first: Measured
    last: Measured

    @property
    def difference(self) -> float:
        return self.last.value - self.first.value

    @property
    def error(self) -> float:
        """Of the difference, as if the two had nothing in common: the problems are the same, so it is less."""
        return math.hypot(self.first.error, self.last.error)

    @property
    def is_up(self) -> bool:
        return self.difference > SURE * self.error

    @property
    def is_down(self) -> bool:
        return -self.difference > SURE * self.error

    @property
    def verdict(self) -> str:
        how = "rose" if self.is_up else "fell" if self.is_down else "did not clearly move"
        return f"The held-out reward ({self.label}) {how}: {self.first}, then {self.last}."


def change(records: Sequence[Record], key: str) -> CurveChange | None:
    """The first 5% of the steps (1 to 10 of them) against the last ten (a third at most); None below two points.

    The trend compares ends of equal length, of which one step alone would say little.
    """
    return change_of(series(records, key).values)


def change_of(values: Sequence[float]) -> CurveChange | None:
    if len(values) < 2:
        return None
    num_first = max(1, min(ENDS, len(values) // 20))
    num_last = max(1, min(ENDS, len(values) // 3))
    first, start, end = values[:num_first], values[:num_last], values[-num_last:]
    trend = statistics.fmean(end) - statistics.fmean(start)
    return CurveChange(statistics.fmean(first), statistics.fmean(end), num_first, num_last, trend, *_error(start, end))


def reward_change(records: Sequence[Record]) -> CurveChange | None:
    return change(records, "reward")


def held_out_change(records: Sequence[Record]) -> HeldOutChange | None:
    """Of the first kind of held-out reward that was measured twice with its error."""
    for label, key in held_out_rewards(key for record in records for key in record):
        found = [
            Measured(int(record["step"]), float(record[key]), float(record[f"{key}_stderr"]))
            for record in records
            if record.get(key) is not None and record.get(f"{key}_stderr") is not None
        ]
        if len(found) > 1:
            return HeldOutChange(label, found[0], found[-1])
    return None


def has_learnt(records: Sequence[Record]) -> bool | None:
    """Whether the held-out reward rose clearly, or where none was measured the reward; None with too few steps."""
    held_out = held_out_change(records)
    if held_out is not None:
        return held_out.is_up
    found = reward_change(records)
    return None if found is None or found.error is None else found.is_up


def _error(start: Sequence[float], end: Sequence[float]) -> tuple[float | None, float]:
    """Standard error of the trend from the spread of steps at the two ends, and its degrees of freedom.

    A trend inside an end counts as spread, so the error is rather too large than too small.
    """
    size = len(end)
    if size < FEWEST_ENDS:
        return None, math.inf
    parts = [statistics.variance(values) / size for values in (start, end)]
    squares = sum(part**2 for part in parts) / (size - 1)
    return math.sqrt(sum(parts)), sum(parts) ** 2 / squares if squares else math.inf


def student(freedom: float) -> float:
    """The 97.5% quantile of Student's t, to 4% from two degrees of freedom on (1.96 rounded up to 2)."""
    return SURE + 2.4 / freedom + (4.5 if freedom >= 2 else 8.3) / freedom**2
