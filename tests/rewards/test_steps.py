"""Rewards of steps: what a function may return, what becomes of it, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from groupwise.errors import RewardError
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.types import Completion, Group, Problem

GROUP = Group(
    0, Problem(0, "p"), (5,), tuple(Completion((7,) * n, (0.0,) * n, "stop", 0, text="x" * n) for n in (3, 1, 2))
)


def scored(*columns: list[Any], weights: list[float] | None = None) -> Group:
    functions = [lambda completions, column=column: column for column in columns]
    return RewardScorer(resolve_rewards(functions, weights=weights)).score([GROUP]).groups[0]


def test_the_reward_is_the_sum_of_its_scored_steps():
    group = scored([[(1, 0.5), (3, 2)], [[1, None]], [(1, float("nan")), (2, -1.0)]])
    (rewards,) = group.rewards.values()
    assert rewards == group.reward == (2.5, None, -1.0)
    assert list(group.steps.values()) == [(((1, 0.5), (3, 2.0)), ((1, None),), ((1, None), (2, -1.0)))]


def test_numbers_and_steps_mix_and_are_weighted():
    group = scored([[(2, 1.0), (3, 1.0)], 4, None], [1.0, 1.0, 1.0], weights=[10.0, 1.0])
    assert group.reward == (21.0, 41.0, 1.0)
    assert list(group.steps.values()) == [(((2, 1.0), (3, 1.0)), None, None)]
    assert scored([1, 2, 3]).steps == {}


@pytest.mark.parametrize("steps", [[1.0], [(0, 1.0)], [(4, 1.0)], [(True, 1.0)], [(1.0, 1.0)], [(1, 1.0, 1.0)], ["ab"]])
def test_steps_that_are_none_are_refused_with_the_limits(steps):
    with pytest.raises(RewardError, match=r"pairs \(end, reward\), each end a token number from 1 to 3"):
        scored([steps, 0, 0])


@pytest.mark.parametrize("reward", ["1", float("inf")])
def test_the_reward_of_a_step_is_a_finite_number(reward):
    with pytest.raises(RewardError, match=r"completion 1 of"):
        scored([[(1, reward)], 0, 0])
