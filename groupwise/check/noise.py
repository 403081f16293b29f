"""Check for noise: a reward function that gives one completion two different numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from groupwise.check.evidence import Evidence
from groupwise.check.finding import Finding, Level
from groupwise.check.reward_stats import Scores
from groupwise.diagnose.correlation import agreement
from groupwise.errors import quoted
from groupwise.rounding import is_equal
from groupwise.runs.text import number
from groupwise.types import ScoredGroup

MOSTLY_NOISE = 0.5
"""Rank correlation, inside groups, of two scorings of the same completions: below it most of what the order of a group
teaches is chance."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rewards of one completion."""

    group: ScoredGroup
    index: int
    first: float | None
    second: float | None

    @property
    def is_noisy(self) -> bool:
        if self.first is None or self.second is None:
            return self.first is not self.second
        return not is_equal(self.first, self.second)

    @property
    def gap(self) -> float:
        """How far the two lie apart; one that is unscored is farther than any other."""
        return float("inf") if self.first is None or self.second is None else abs(self.first - self.second)


def noisy_reward(evidence: Evidence) -> list[Finding]:
    """A function that scores a completion otherwise at a second call, or two equal completions of a group."""
    if evidence.run.inputs.environment is not None:  # what answered is used up after one scoring
        return []
    found = []
    for function in evidence.functions:
        again = [pair for pair in _scored_twice(evidence, function.name) if pair.is_noisy]
        alike = [pair for group in evidence.sampled.groups for pair in _equal(group, function.name) if pair.is_noisy]
        if not again and not alike:
            continue
        worst = max(again or alike, key=lambda pair: pair.gap)
        num = evidence.sampled.num_completions
        how = (
            f"gives {len(again)} of {num} completions another reward when it is called again on the same ones"
            if again
            else f"gives equal completions of one group different rewards ({len(alike)} pairs)"
        )
        what = (
            f'Reward "{function.name}" {how}: {number(worst.first)} and {number(worst.second)} for '
            f"{quoted(worst.group.completions[worst.index].text, 60)} ({worst.group.problem.label})."
        )
        level: Level = "warn"
        rho = _order_kept(evidence, function)
        if again and rho is not None:
            what += f" The two orders inside groups agree by a rank correlation of {rho:.2f}."
            level = "fail" if rho < MOSTLY_NOISE else "warn"
        remedy = (
            f"Take chance out of {function.name} (a fixed seed, temperature 0 of a judge, a cache), or let it return "
            "the mean of several scorings."
        )
        found.append(Finding("noisy_reward", level, what, remedy))
    return found


def _scored_twice(evidence: Evidence, name: str) -> Iterator[Pair]:
    for group, again in zip(evidence.sampled.groups, evidence.again, strict=False):
        for index, (first, second) in enumerate(zip(group.rewards[name], again.rewards[name], strict=True)):
            yield Pair(group, index, first, second)


def _equal(group: ScoredGroup, name: str) -> Iterator[Pair]:
    """Every two completions of the group that are the same, token by token."""
    rewards = group.rewards[name]
    for (i, one), (j, other) in combinations(enumerate(group.completions), 2):
        if one.token_ids == other.token_ids and one.text == other.text:
            yield Pair(group, i, rewards[i], rewards[j])


def _order_kept(evidence: Evidence, function: Scores) -> float | None:
    """How far the order of the completions inside groups survives a second scoring."""
    second = replace(function, groups=tuple(group.rewards[function.name] for group in evidence.again))
    found = agreement(function, second) if evidence.again else None
    return None if found is None else found.rho


CHECKS = (noisy_reward,)
