"""Statistics of each reward function over the sampled completions, for the checks and the pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles

from groupwise.check.sample import Sampled
from groupwise.rounding import differ, is_equal
from groupwise.types import Completion, ScoredGroup

TOTAL = "total"
"""The weighted sum, where several functions are added up."""
OTHER_SIZES = (2, 4, 8, 16, 32, 64)
"""Group sizes that the share of groups with signal is estimated for."""

Values = Sequence[float | None]


@dataclass(frozen=True)
class Scores:
    """The rewards of one function over all sampled completions, group by group."""

    name: str
    groups: tuple[tuple[float | None, ...], ...]
    weight: float = 1.0
    seconds: float | None = None
    """Of its call on all completions; None for the weighted sum."""

    @property
    def values(self) -> list[float | None]:
        return [value for group in self.groups for value in group]

    @property
    def scored(self) -> list[float]:
        return [value for value in self.values if value is not None]

    @property
    def mean(self) -> float | None:
        return fmean(self.scored) if self.scored else None

    @property
    def unscored(self) -> float:
        """Share of the completions that it returned None for."""
        return 1 - len(self.scored) / len(self.values)

    @property
    def signal_share(self) -> float:
        """Share of the groups in which the function's rewards differ."""
        return sum(differ(group) for group in self.groups) / len(self.groups)

    @property
    def five(self) -> tuple[float, float, float, float, float] | None:
        """Lowest, lower quartile, median, upper quartile, highest; None where nothing was scored."""
        scored = sorted(self.scored)
        if not scored:
            return None
        low, middle, high = quantiles(scored, n=4, method="inclusive") if len(scored) > 1 else scored * 3
        return scored[0], low, middle, high, scored[-1]

    @property
    def success_rate(self) -> float | None:
        """Share of the higher value, where it is a verdict of two values; else None."""
        counts = self._counts
        return counts[-1] / sum(counts) if len(counts) == 2 else None

    def expected_signal(self, size: int) -> float:
        """Share of groups of that size with signal, were all problems alike: 1 - sum over values of (frequency)^size.

        Problems are not alike, so it is a bound from above: some are always solved, some never.
        """
        counts, total = self._counts, len(self.scored)
        return 1 - sum((count / total) ** size for count in counts) if total else 0.0

    @property
    def _counts(self) -> list[int]:
        """How often each value occurs, the lowest first; values that are equal up to rounding are one."""
        ordered = sorted(self.scored)
        begins = [i for i, value in enumerate(ordered) if i == 0 or not is_equal(ordered[i - 1], value)]
        return [end - begin for begin, end in zip(begins, [*begins[1:], len(ordered)], strict=False)]


@dataclass(frozen=True, slots=True)
class Judgement:
    """One completion with what was thought of it."""

    place: str
    """The row of the data that it answers."""
    completion: Completion
    reward: float
    rewards: Mapping[str, float | None]


def scores_of(sampled: Sampled, weights: Mapping[str, float]) -> list[Scores]:
    """One a function, with what counts of its rewards left aside."""
    return [
        Scores(name, tuple(group.rewards[name] for group in sampled.groups), weights[name], seconds)
        for name, seconds in sampled.seconds.items()
    ]


def total_of(sampled: Sampled) -> Scores:
    return Scores(TOTAL, tuple(group.reward for group in sampled.groups))


def ranked(groups: Sequence[ScoredGroup], name: str | None = None) -> list[Judgement]:
    """Every scored completion, the one that the function (by default the sum) likes best first."""
    found = [
        Judgement(group.problem.label, completion, reward, {key: rewards[i] for key, rewards in group.rewards.items()})
        for group in groups
        for i, (completion, reward) in enumerate(
            zip(group.completions, group.reward if name is None else group.rewards[name], strict=True)
        )
        if reward is not None
    ]
    return sorted(found, key=lambda judgement: judgement.reward, reverse=True)


def histogram(values: Sequence[float], bins: int = 8) -> list[int]:
    """How many values lie in each of equally wide bins from the lowest to the highest."""
    low, high = min(values), max(values)
    counts = [0] * bins
    for value in values:
        counts[bins // 2 if is_equal(low, high) else min(int((value - low) / (high - low) * bins), bins - 1)] += 1
    return counts
