"""A number has moved where its noise carries that, and not elsewhere."""

from __future__ import annotations

import random

import pytest

from groupwise.diagnose.trend import change_of, has_learnt, held_out_change, student


def records(values: list[float]) -> list[dict[str, float]]:
    return [{"step": step, "reward": value} for step, value in enumerate(values, start=1)]


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (4, 2.776), (8, 2.306), (18, 2.101), (100, 1.984)]
)
def test_the_bound_is_that_of_student(freedom, quantile):
    assert student(freedom) == pytest.approx(quantile, rel=0.045)


@pytest.mark.parametrize("num_steps", [9, 15, 40])
def test_noise_alone_seldom_moves(num_steps):
    """At most 1 in 20 runs of noise should be found to move."""
    dice = random.Random(num_steps)
    found = [change_of([dice.gauss(0, 1) for _ in range(num_steps)]) for _ in range(1000)]
    assert sum(each.is_up or each.is_down for each in found) < 65


def test_a_clear_rise_is_seen():
    dice = random.Random(1)
    assert change_of([0.02 * step + dice.gauss(0, 0.1) for step in range(40)]).is_up


def test_a_first_step_alone_claims_nothing():
    """One low first step among equal ones is no rise."""
    found = change_of([0.0, *([1.0, 1.2] * 15)])
    assert found.difference > 0.9
    assert not found.is_up


def test_held_out_rewards_decide_where_there_are_some():
    rising = records([0.02 * step for step in range(40)])
    assert has_learnt(rising)
    rising[0] |= {"eval_reward": 0.1, "eval_reward_stderr": 0.05}
    rising[39] |= {"eval_reward": 0.15, "eval_reward_stderr": 0.05}
    assert has_learnt(rising) is False
    assert held_out_change(rising).verdict == (
        "The held-out reward (sampled) did not clearly move: 0.100 ± 0.0500 (step 1), then 0.150 ± 0.0500 (step 40)."
    )


def test_too_few_steps_decide_nothing():
    assert has_learnt(records([0.0, 1.0, 2.0])) is None
