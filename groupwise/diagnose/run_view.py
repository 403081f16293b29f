"""What the doctor reads of a run: its records, its recipe, and the completions of a few steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from groupwise.diagnose.trend import CurveChange, change, has_learnt
from groupwise.rounding import differ, is_equal
from groupwise.runs.reader import RunReader
from groupwise.runs.records import CompletionRecord, GroupRecord
from groupwise.runs.series import Record, Series, function_names, series

LOOK = 8
"""Steps at either end of a run whose completions are read, a third of the steps at most."""
LATE = 0.25
"""Share of the steps that are the end of a run, for numbers that are looked at as they are by now."""
MOST_LATE = 50
FEWEST_LATE = 5
"""Also the steps from which on sums over a run say something: the first step warms up."""

Place = tuple[int, GroupRecord, int]
"""A completion: its step, its group, its place in the group."""
Groups = Sequence[tuple[int, GroupRecord]]
"""Groups with their steps."""


@dataclass(frozen=True)
class RunView:
    """A run up to step `until`, as if it had ended there; without it all that is recorded."""

    reader: RunReader
    until: int | None = None

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        return [r for r in self.reader.metrics() if self.until is None or r["step"] <= self.until]

    @property
    def num_steps(self) -> int:
        return len(self.records)

    @cached_property
    def recipe(self) -> Mapping[str, Any]:
        return self.reader.config.get("recipe") or {}

    @property
    def objective(self) -> Mapping[str, Any]:
        return self.recipe.get("objective") or {}

    @property
    def last_step(self) -> int:
        return int(self.records[-1]["step"]) if self.records else 0

    def setting(self, key: str, default: float = 0.0) -> float:
        """A number of the recipe; `default` where none is recorded."""
        value = self.recipe.get(key)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else default

    # Numbers of the steps

    def series(self, key: str) -> Series:
        return series(self.records, key)

    def change(self, key: str) -> CurveChange | None:
        return change(self.records, key)

    @cached_property
    def has_learnt(self) -> bool | None:
        return has_learnt(self.records)

    @property
    def reward_is_up(self) -> bool:
        found = self.change("reward")
        return found is not None and found.is_up

    @property
    def has_moved(self) -> bool:
        """Whether the run has learnt, held-out problems or at least the training ones."""
        return bool(self.has_learnt) or self.reward_is_up

    @property
    def num_late(self) -> int:
        """Steps that are the end of the run."""
        return min(self.num_steps, max(FEWEST_LATE, min(MOST_LATE, int(LATE * self.num_steps))))

    @property
    def late_records(self) -> Sequence[Record]:
        return self.records[-self.num_late :]

    @property
    def late_step(self) -> int:
        """The first step of the end of the run."""
        return int(self.late_records[0]["step"]) if self.records else 0

    def late_mean(self, key: str) -> float | None:
        """Mean over the end of the run, where it was measured."""
        values = series(self.late_records, key).values
        return fmean(values) if values else None

    @property
    def no_signal_key(self) -> str:
        """Of all groups drawn where that is recorded."""
        key = "frac_reward_zero_std/drawn"
        return key if self.series(key) else "frac_reward_zero_std"

    # Completions

    @cached_property
    def steps(self) -> list[int]:
        """Steps whose completions are recorded."""
        found = self.reader.completion_steps()
        return [step for step in found if self.until is None or step <= self.until]

    @cached_property
    def early(self) -> Groups:
        """All groups of the first steps."""
        return self._read(self.steps[: self._num_looked])

    @cached_property
    def late(self) -> Groups:
        """All groups of the last steps."""
        return self._read(self.steps[len(self.steps) - self._num_looked :])

    @cached_property
    def middle(self) -> Groups:
        """Groups of a few steps between them."""
        between = self.steps[self._num_looked : len(self.steps) - self._num_looked]
        return self._read(between[:: max(1, -(-len(between) // LOOK))])

    @property
    def looked(self) -> Groups:
        """All groups that are read, in order."""
        return [*self.early, *self.middle, *self.late]

    @property
    def _num_looked(self) -> int:
        return min(LOOK, max(1, len(self.steps) // 3)) if self.steps else 0

    def _read(self, steps: Sequence[int]) -> Groups:
        return [(step, group) for step in steps for group in self.reader.completions(step)]

    # Rewards

    @property
    def functions(self) -> list[str]:
        return function_names(self.records)

    @cached_property
    def reward_names(self) -> list[str]:
        """The reward functions in their order, by the first completion that is read."""
        return next((list(c["rewards"]) for _, _, c in completions(self.looked)), [])

    @cached_property
    def weights(self) -> Mapping[str, float] | None:
        """Weight of each reward function; None where the recipe's do not add up to the recorded rewards."""
        names = self.reward_names
        given = self._recorded_weights()
        weights = dict(zip(names, given if len(given) == len(names) else [1.0] * len(names), strict=True))
        return weights if names and all(_adds_up(c, weights) for _, _, c in completions(self.late)) else None

    def _recorded_weights(self) -> list[float]:
        if given := self.recipe.get("reward_weights"):
            return [float(weight) for weight in given if isinstance(weight, int | float)]
        specs = [self.recipe.get("task"), *(self.recipe.get("rewards") or ()), self.recipe.get("environment")]
        return [_weight(spec) for spec in specs if spec]

    @cached_property
    def span(self) -> tuple[float, float] | None:
        """The lowest and the highest reward among the completions that are read."""
        rewards = [c["reward"] for _, _, c in completions(self.looked) if c["reward"] is not None]
        return (min(rewards), max(rewards)) if rewards else None


def completions(groups: Groups) -> Iterator[tuple[int, GroupRecord, CompletionRecord]]:
    for step, group in groups:
        for completion in group["completions"]:
            yield step, group, completion


def places(groups: Groups) -> Iterator[tuple[Place, CompletionRecord]]:
    for step, group in groups:
        for index, completion in enumerate(group["completions"]):
            yield (step, group, index), completion


def rewards_of(group: GroupRecord) -> list[float]:
    """The scored rewards of a group."""
    return [c["reward"] for c in group["completions"] if c["reward"] is not None]


def has_signal(group: GroupRecord) -> bool:
    """Whether two scored rewards of the group differ, or where turns or steps are scored an advantage is not 0."""
    return differ(rewards_of(group)) or any(c["advantage"] for c in group["completions"])


def counted(completion: CompletionRecord, name: str) -> float | None:
    """The reward of a function once it is clipped, normalised or gated, before its weight."""
    return completion.get("counted", completion["rewards"]).get(name)


def num_sampled(completion: CompletionRecord) -> int:
    """Tokens of a completion that the policy sampled."""
    turns = completion.get("turns")
    return sum(turn["end"] - turn["start"] for turn in turns) if turns else len(completion["ids"])


def share(count: int, of: int) -> str:
    return f"{count:,} of {of:,}"


def _weight(spec: Any) -> float:
    weight = spec.get("weight") if isinstance(spec, Mapping) else None
    return float(weight) if isinstance(weight, int | float) else 1.0


def _adds_up(completion: CompletionRecord, weights: Mapping[str, float]) -> bool:
    """Whether the weighted functions make the reward of a completion."""
    if completion["reward"] is None:
        return True
    values = {name: counted(completion, name) for name in weights}
    total = sum(weights[name] * value for name, value in values.items() if value is not None)
    return bool(is_equal(total, completion["reward"])) or abs(total - completion["reward"]) < 1e-4
