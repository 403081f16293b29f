"""DAPO's soft overlong punishment as one more reward, with a column of its own in the record.

Only training has this penalty; evaluation keeps the rewards of the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from groupwise.algo import overlong_penalty
from groupwise.config import Settings
from groupwise.rewards import RewardScorer
from groupwise.rewards.function import RewardFunction

NAME = "overlong"


def with_overlong_penalty(scorer: RewardScorer, config: Settings) -> RewardScorer:
    """The scorer; where `overlong_cache` is set, the penalty is its last function."""
    if config.overlong_cache is None:
        return scorer
    longest = config.max_completion_length
    cache = max(round(config.overlong_cache * longest), 1)

    return scorer.with_function(RewardFunction.of(Overlong(longest, cache), name=NAME))


@dataclass(frozen=True)
class Overlong:
    """A penalty that grows over the last `cache` of `longest` tokens; tokens that nobody sampled do not count."""

    highest: ClassVar[float] = 0.0

    longest: int
    cache: int

    def __call__(self, completion_ids: list[list[int]]) -> list[float]:
        lengths = [len(ids) for ids in completion_ids]
        penalties: list[float] = overlong_penalty(lengths, self.longest, self.cache).tolist()
        return penalties
