"""Levels: problems of one difficulty at a time, one level up or down by the success rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from groupwise.data.curriculum import Seen
from groupwise.errors import DataError

COLUMN = "level"


@dataclass(frozen=True)
class LevelRules:
    """When the level changes, and how often levels that were left below are drawn.

    The mean success rate of the last `window` groups at the level decides: at least `up_at` goes up, at most `down_at`
    goes down. A new level starts with an empty window: that and the gap between the two bounds are the hysteresis.
    """

    window: int = 32
    up_at: float = 0.7
    down_at: float = 0.2
    review: float = 0.1


class Levels:
    """Draws from the level that the policy is at, and a little from those below.

    `indices` and `levels`: the problem's number in the data set and its level, one a row of the order. The run starts
    at the lowest level.
    """

    def __init__(self, indices: Sequence[int], levels: Sequence[int], rules: LevelRules) -> None:
        self.rules = rules
        self._level_of_row = levels
        self._level_of_problem = dict(zip(indices, levels, strict=True))
        self.known = sorted(set(levels))
        self.level = self.known[0]
        self._rates: list[float] = []

    def weight(self, row: int) -> float:
        level = self._level_of_row[row]
        if level > self.level:
            return 0.0
        return 1.0 if level == self.level else self.rules.review

    def observe(self, seen: Sequence[Seen]) -> list[str]:
        self._rates += [each.success for each in seen if self._level_of_problem[each.problem] == self.level]
        self._rates = self._rates[-self.rules.window :]
        if len(self._rates) < self.rules.window:
            return []
        rate, place = fmean(self._rates), self.known.index(self.level)
        move = (rate >= self.rules.up_at) - (rate <= self.rules.down_at)
        if not 0 <= place + move < len(self.known) or not move:
            return []
        before, self.level = self.level, self.known[place + move]
        self._rates = []
        return [f"level {before} to {self.level}: {rate:.0%} mean success over the last {self.rules.window} groups"]

    def metrics(self) -> dict[str, float]:
        metrics = {"curriculum/level": float(self.level)}
        return metrics | ({"curriculum/level_success": fmean(self._rates)} if self._rates else {})

    def state_dict(self) -> dict[str, Any]:
        return {"level": self.level, "rates": list(self._rates)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.level, self._rates = state["level"], list(state["rates"])


def check_levels(values: Sequence[Any], places: Sequence[str], name: str, prompts_per_step: int) -> list[int]:
    """The level of each row, a whole number; `places` are what messages call the rows.

    Raises:
        DataError: a row has none, there is only one level, or a level has fewer problems than a step draws.
    """
    for place, value in zip(places, values, strict=True):
        if not isinstance(value, int) or isinstance(value, bool):
            raise DataError(
                f"curriculum: levels needs a column {COLUMN!r} of whole numbers; {place} of {name} has {value!r}. "
                "Use a task with levels (arithmetic, countdown), or add the column."
            )
    counts = {level: values.count(level) for level in sorted(set(values))}
    if len(counts) < 2:
        raise DataError(f"curriculum: levels needs several levels, and all rows of {name} have level {values[0]}.")
    for level, count in counts.items():
        if count < prompts_per_step:
            raise DataError(
                f"Level {level} of {name} has {count} problems, and a step draws {prompts_per_step}. Generate more "
                "problems, or set prompts_per_step lower."
            )
    return list(values)
