"""Rewards that differ by rounding alone are equal: one function for signal, advantages, gates and curricula."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scored import scored_group

from groupwise.algo import advantages, groups_with_signal, process_advantages
from groupwise.algo.groups import batch_std
from groupwise.check.reward_stats import Scores, histogram
from groupwise.data.curriculum import successes
from groupwise.lifecycle.iterate_reward_model import comparisons_of
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.rewards.signal import has_signal, weighted_steps
from groupwise.rounding import differ, is_equal, reaches
from groupwise.train.step_metrics import rewards as reward_metrics
from groupwise.train.step_metrics import solved_share
from groupwise.types import Completion, Problem, ScoredGroup, StepGroup

PAIRS = [
    (0.1 + 0.2, 0.3, True),
    (1.0, 1.0 + 9e-7, True),
    (1.0, 1.0 + 2e-6, False),
    (-287.3, -287.3 * (1 + 5e-7), True),
    (-287.3, -287.31, False),
    (1e9, 1e9 + 100, True),
    (1e9, 1e9 + 2000, False),
    (0.0, 9e-9, True),
    (0.0, 2e-8, False),
    (-1e-9, 1e-9, True),
    (-1.0, 1.0, False),
    (1e300, -1e300, False),
]
NOISY = [
    [0.1 + 0.2, 0.3, 0.3 + 0.0],
    [0.7 + 0.1, 0.8, 1 - 0.2],
    [sum([0.1] * 10), 1.0, math.fsum([0.1] * 10)],
    [-287.3, -287.3 * (1 + 1e-7), -287.3],
    [float(torch.tensor(0.1)), 0.1, float(torch.tensor(0.1))],
    [1e-17, 0.0, -1e-17],
    [1e6 + 0.1, 1e6, 1e6 + 0.2],
]
TOLD_APART = [[0.3, 0.31, 0.3], [1.0, 1.00001, 1.0], [0.0, 1e-7, 0.0], [1e6, 1e6 + 2, 1e6], [-1.0, 1.0, None]]
GROUP_RELATIVE = [
    ("group_mean", "group_std"),
    ("group_mean", "none"),
    ("group_mean", "batch_std"),
    ("group_mean", "batch_std_centred"),
    ("group_mean", "nonzero"),
    ("group_mean", "group_mean"),
    ("group_loo", "none"),
    ("length_weighted", "none"),
    ("best_minus_second", "nonzero"),
    ("batch_mean", "batch_std"),
    ("batch_mean", "none"),
    ("group_mean", "token_whiten"),
    ("batch_mean", "token_whiten"),
    ("greedy", "none"),
]


def group_of(reward: Sequence[float | None], **rewards: Sequence[float | None]) -> ScoredGroup:
    completions = tuple(Completion((7, 0), (-1.0, -1.0), "stop", 0, text="x") for _ in reward)
    named = {name: tuple(values) for name, values in (rewards or {"f": reward}).items()}
    return scored_group(0, Problem(0, "p"), (1,), completions, named, reward)


@pytest.mark.parametrize(("a", "b", "expected"), PAIRS)
def test_two_numbers_are_equal_up_to_1e6_of_the_larger_or_1e8(a: float, b: float, expected: bool) -> None:
    assert is_equal(a, b) is is_equal(b, a) is expected
    assert is_equal(torch.tensor([a, a], dtype=torch.float64), torch.tensor([b, a], dtype=torch.float64)).tolist() == [
        expected,
        True,
    ]
    assert differ([a, None, b]) is not expected


def test_fewer_than_two_scored_values_do_not_differ() -> None:
    assert not differ([])
    assert not differ([None, 3.0, None])
    assert differ([None, 3.0, 4.0])


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_lists_and_tensors_agree(a: float, b: float) -> None:
    assert is_equal(a, b) == bool(is_equal(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)))
    assert reaches(a, b) == (a >= b or is_equal(a, b))


def everywhere(rewards: Sequence[float | None]) -> dict[str, bool]:
    """Every place that decides whether a group has signal."""
    group = group_of(rewards)
    steps = weighted_steps(group, [1.0])
    return {
        "group": group.has_signal,
        "algo": bool(groups_with_signal(list(rewards), [0] * len(rewards)).any()),
        "sum": has_signal("sum", group.reward, group.shaped_rewards, steps),
        "each function": has_signal("any_function", group.reward, group.shaped_rewards, steps),
        "steps": has_signal("steps", group.reward, group.shaped_rewards, steps),
        "check": Scores("f", (tuple(rewards),)).signal_share == 1,
    }


@pytest.mark.parametrize("rewards", NOISY, ids=str)
def test_rewards_that_rounding_tells_apart_are_no_signal_anywhere(rewards: list[float]) -> None:
    assert set(everywhere(rewards).values()) == {False}


@pytest.mark.parametrize("rewards", TOLD_APART, ids=str)
def test_rewards_that_differ_by_more_are_signal_everywhere(rewards: list[float | None]) -> None:
    assert set(everywhere(rewards).values()) == {True}


@pytest.mark.parametrize("rewards", NOISY, ids=str)
@pytest.mark.parametrize(("baseline", "scale"), GROUP_RELATIVE)
def test_their_advantages_are_exactly_0(rewards: list[float], baseline: Any, scale: Any) -> None:
    found = advantages(
        rewards, [0] * 3, baseline, scale, lengths_N=[1, 2, 3], greedy_reward_N=[rewards[1]] * 3, eps=1e-12
    )
    assert not found.any()
    assert found.dtype == torch.float64


@pytest.mark.parametrize("rewards", NOISY, ids=str)
def test_functions_and_steps_that_rounding_tells_apart_move_nothing(rewards: list[float]) -> None:
    columns = [[r, 1.0] for r in rewards]
    assert not advantages(columns, [0] * 3, combine="normalise_each").any()
    assert not process_advantages([[1], [1], [1]], [[r] for r in rewards], [0] * 3, [1, 2, 3]).any()
    assert float(batch_std(torch.tensor(rewards, dtype=torch.float64), 1)) == 0


def test_functions_that_cancel_up_to_rounding_move_nothing() -> None:
    columns = [[r, 1 - 3 * r] for r in (0.1, 0.2, 0.4)]
    assert not advantages(columns, [0] * 3, combine="normalise_each", eps=1e-17).any()


def test_a_tie_for_the_best_up_to_rounding_has_no_margin() -> None:
    assert not advantages([0.1 + 0.2, 0.3, 0.0], [0] * 3, "best_minus_second", "none").any()
    assert advantages([0.5, 0.3, 0.0], [0] * 3, "best_minus_second", "none").tolist() == [0.2, 0.0, 0.0]


def test_a_mean_of_0_up_to_rounding_is_no_scale() -> None:
    assert not advantages([0.1 + 0.2, -0.3], [0, 0], "group_mean", "group_mean").any()


def test_a_reward_of_0_up_to_rounding_is_not_a_right_one() -> None:
    almost = 0.1 + 0.2 - 0.3
    exact = advantages([0.0, 0.0, 1.0, 1.0], [0] * 4, "passk", "passk_std", k=2)
    assert advantages([almost, -almost, 1.0, 1.0], [0] * 4, "passk", "passk_std", k=2).tolist() == exact.tolist()


def test_a_group_beside_it_is_what_it_is_alone() -> None:
    alone = advantages([1.0, 2.0, 4.0], [1] * 3)
    together = advantages([0.1 + 0.2, 0.3, 0.3, 1.0, 2.0, 4.0], [0, 0, 0, 1, 1, 1])
    assert together.tolist() == [0, 0, 0, *alone.tolist()]


def test_the_metric_counts_such_groups_as_without_signal() -> None:
    from groupwise.train.collect import Collected

    groups = [group_of([0.1 + 0.2, 0.3]), group_of([0.1 + 0.2 - 0.3, 0.0]), group_of([0.0, 1.0])]
    found = reward_metrics(Collected(groups=groups, function_s={"f": 0.0}))
    assert found["frac_reward_zero_std"] == pytest.approx(2 / 3)
    used = [StepGroup.of_scored(group) for group in groups]
    assert solved_share(used, 0.3) == pytest.approx(1 / 3)


def test_a_function_on_the_scale_of_its_group_is_0_where_the_group_is_equal() -> None:
    def sums(completions: list[str]) -> list[float]:
        return [0.1 + 0.2, 0.3]

    spec = {"function": sums, "normalise": "group"}
    assert RewardScorer(resolve_rewards([spec])).score([group_of([0, 0])]).groups[0].reward == (0.0, 0.0)


def test_a_gate_and_a_solved_problem_are_reached_up_to_rounding() -> None:
    def almost(completions: list[str]) -> list[float]:
        return [0.7 + 0.1, 0.79]

    def one(completions: list[str]) -> list[float]:
        return [1.0, 1.0]

    specs = [{"function": almost, "weight": 0}, {"function": one, "when": {"almost": 0.8}}]
    assert RewardScorer(resolve_rewards(specs)).score([group_of([0, 0])]).groups[0].reward == (1.0, 0.0)
    assert successes([group_of([0.7 + 0.2 + 0.1, 0.9])], None, 1.0)[0].success == 0.5


def test_equal_annotations_are_no_comparison() -> None:
    group: Any = {"prompt": "p", "completions": [{"text": "a"}, {"text": "b"}]}
    assert comparisons_of([group], lambda prompt, texts: [0.1 + 0.2, 0.3]) == []
    assert [c.chosen for c in comparisons_of([group], lambda prompt, texts: [0.2, 0.3])] == ["b"]


def test_the_check_counts_two_values_where_rounding_makes_three() -> None:
    scores = Scores("f", ((0.1 + 0.2, 0.3, 0.0, 0.3),))
    assert scores.success_rate == 0.75
    assert scores.expected_signal(2) == pytest.approx(1 - 0.75**2 - 0.25**2)
    assert histogram([0.1 + 0.2, 0.3]) == histogram([0.3, 0.3])
