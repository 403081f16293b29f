"""DAPO's soft overlong punishment as one more reward, with a column of its own in the record.

Only training has this penalty; evaluation keeps the rewards of the task.
"""

from __future__ import annotations

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

    def overlong(completion_ids: list[list[int]]) -> list[float]:
        penalties: list[float] = overlong_penalty([len(ids) for ids in completion_ids], longest, cache).tolist()
        return penalties

    return scorer.with_function(RewardFunction.of(overlong, name=NAME))
