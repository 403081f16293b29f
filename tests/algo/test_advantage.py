"""Advantages: typed-in numbers for each estimator, and what holds for any rewards."""

from __future__ import annotations

from math import comb, nan, sqrt
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groupwise.algo import (
    Objective,
    advantages,
    groups_with_signal,
    moving_average,
    objective_advantages,
    overlong_penalty,
    process_advantages,
    reward_to_go,
)
from groupwise.algo.process import whiten_tokens
from groupwise.errors import ConfigError, RewardError

few = settings(max_examples=25, deadline=None)
REWARDS = st.lists(st.integers(-50, 50).map(float), min_size=8, max_size=8)
GROUPS = [0, 0, 0, 0, 1, 1, 1, 1]
CENTRED: list[tuple[Any, Any]] = [("group_mean", "none"), ("group_mean", "group_std"), ("group_loo", "none")]


def close(found: Tensor, expected: Any, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


@few
@given(REWARDS, st.integers(-1000, 1000))
def test_a_constant_added_to_the_rewards_changes_nothing(rewards: list[float], constant: int) -> None:
    for baseline, scale in [*CENTRED, ("group_mean", "batch_std_centred"), ("batch_mean", "batch_std")]:
        plain = advantages(rewards, GROUPS, baseline, scale)
        close(advantages([r + constant for r in rewards], GROUPS, baseline, scale), plain, 1e-8)


@few
@given(REWARDS, st.floats(0.1, 10))
def test_a_factor_scales_the_centred_and_leaves_the_z_score(rewards: list[float], factor: float) -> None:
    scaled = [factor * r for r in rewards]
    close(
        advantages(scaled, GROUPS, "group_mean", "none"),
        factor * advantages(rewards, GROUPS, "group_mean", "none"),
        1e-9,
    )
    z, z_scaled = (advantages(r, GROUPS, "group_mean", "group_std", eps=0.0) for r in (rewards, scaled))
    close(z_scaled, z, 1e-9)


@few
@given(REWARDS)
def test_leave_one_out_is_the_centred_reward_times_g_over_g_minus_1(rewards: list[float]) -> None:
    loo = advantages(rewards, GROUPS, "group_loo", "none")
    close(loo, 4 / 3 * advantages(rewards, GROUPS, "group_mean", "none"), 1e-9)
    others = [[r for j, r in enumerate(rewards) if j != i and GROUPS[j] == GROUPS[i]] for i in range(8)]
    close(loo, [r - sum(rest) / 3 for r, rest in zip(rewards, others, strict=True)], 1e-9)


@few
@given(st.floats(-1e6, 1e6), st.sampled_from([torch.float32, torch.float64]))
def test_a_group_without_signal_is_exactly_zero_for_every_estimator(value: float, dtype: torch.dtype) -> None:
    rewards = torch.tensor([value] * 6, dtype=dtype)
    group, lengths = [3] * 6, [1, 2, 3, 4, 5, 6]
    for baseline in ("group_mean", "group_loo", "length_weighted", "best_minus_second", "passk"):
        for scale in ("passk_std", "none") if baseline == "passk" else ("none", "group_std", "batch_std", "nonzero"):
            found = advantages(rewards, group, baseline, scale, lengths_N=lengths, k=2)
            assert found.tolist() == [0.0] * 6
            assert found.dtype == dtype


def test_six_equal_rewards_that_float32_would_tell_apart() -> None:
    rewards = torch.full((6,), -287.3)
    assert advantages(rewards, [0] * 6, "group_mean", "group_std").tolist() == [0.0] * 6
    assert not groups_with_signal(rewards, [0] * 6).any()


@pytest.mark.parametrize(("baseline", "scale"), CENTRED)
def test_what_was_not_judged_is_left_out(baseline: Any, scale: Any) -> None:
    found = advantages([1.0, nan, 3.0, None, 5.0, nan], [0, 0, 0, 1, 1, 1], baseline, scale)
    scored = advantages([1.0, 3.0], [0, 0], baseline, scale)
    close(found, [float(scored[0]), 0, float(scored[1]), 0, 0, 0])


def test_an_unjudged_reward_counted_as_zero_would_be_found() -> None:
    left_out, as_zero = ([2.0, 4.0, r, 6.0] for r in (nan, 0.0))
    difference = advantages(left_out, [0] * 4) - advantages(as_zero, [0] * 4)
    assert float(difference.abs().min()) > 0.1


def test_several_rewards_are_summed_over_those_that_judged() -> None:
    rewards = [[1.0, 2.0], [nan, 4.0], [nan, nan], [3.0, nan]]
    found = advantages(rewards, [0] * 4, "group_mean", "none", weights_K=[1.0, 0.5])
    sums = [2.0, 2.0, nan, 3.0]
    close(found, advantages(sums, [0] * 4, "group_mean", "none"))
    with pytest.raises(ConfigError, match="3 reward weights for 2"):
        advantages(rewards, [0] * 4, weights_K=[1, 2, 3])


def test_gdpo_keeps_apart_what_the_sum_confuses() -> None:
    rewards = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    assert advantages(rewards, [0] * 4).tolist() == [0.0] * 4
    each = advantages(rewards, [0] * 4, combine="normalise_each")
    assert float((each[0] - each[1]).abs()) < 1e-12  # z-scores of mirrored columns cancel
    rewards = [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    each = advantages(rewards, [0] * 4, combine="normalise_each")
    assert float((each[0] - each[2]).abs()) > 0.1
    assert advantages(rewards, [0] * 4)[0] == advantages(rewards, [0] * 4)[2]
    constant = advantages([[1.0, 1.0]] * 4 + rewards, GROUPS, combine="normalise_each")
    assert constant[:4].tolist() == [0.0] * 4


def test_length_weighted_baseline() -> None:
    found = advantages([1.0, 0.0, 0.0], [0] * 3, "length_weighted", "none", lengths_N=[10, 20, 70])
    close(found, [0.9, -0.1, -0.1])


def test_batch_mean_and_batch_scales() -> None:
    rewards = [1.0, 2.0, 3.0, 6.0]
    close(advantages(rewards, [0, 0, 1, 1], "batch_mean", "none"), [-2.0, -1.0, 0.0, 3.0])
    std = sqrt((4 + 1 + 0 + 9) / 3)
    close(advantages(rewards, [0, 0, 1, 1], "batch_mean", "batch_std", eps=0.0), [r / std for r in (-2, -1, 0, 3)])
    centred = [-0.5, 0.5, -1.5, 1.5]
    close(
        advantages(rewards, [0, 0, 1, 1], "group_mean", "batch_std_centred", ddof=0, eps=0.0),
        [c / sqrt(1.25) for c in centred],
    )


def test_moving_average_baseline() -> None:
    found = advantages([1.0, nan, 0.0, 1.0], [0, 1, 2, 3], "ema", "none", ema_start=0.5)
    close(found, [0.5, 0.0, -0.525, 0.50125])
    assert moving_average([1.0, nan, 0.0], 0.5) == pytest.approx(0.49875)


def test_greedy_baseline() -> None:
    close(advantages([1.0, 3.0], [0, 1], "greedy", "none", greedy_reward_N=[2.0, 1.5]), [-1.0, 1.5])
    close(advantages([1.0, 3.0], [0, 1], "greedy", "none", greedy_reward_N=[nan, 1.5]), [0.0, 1.5])


def test_only_the_best_gets_its_margin() -> None:
    close(advantages([1.0, 5.0, 3.0, 7.0, 7.0], [0, 0, 0, 1, 1], "best_minus_second", "none"), [0.0, 2.0, 0.0, 0, 0])


def test_scale_by_the_group_mean() -> None:
    close(advantages([1.0, 0, 0, 0], [0] * 4, "group_mean", "group_mean"), [3.0, -1, -1, -1])
    close(advantages([1.0, -1.0], [0] * 2, "group_mean", "group_mean"), [0.0, 0.0])


def test_scale_by_the_share_with_signal() -> None:
    close(advantages([1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1], "group_mean", "nonzero"), [1.0, -1.0, 0.0, 0.0])


@few
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=6, max_size=6), st.integers(1, 4))
def test_pass_at_k(rewards: list[float], k: int) -> None:
    found = advantages(rewards, [0] * 6, "passk", "passk_std", k=k)
    wrong = rewards.count(0.0)
    rate = 1 - comb(wrong, k) / comb(6, k)
    sigma = sqrt(rate * (1 - rate))
    if sigma == 0:
        assert found.tolist() == [0.0] * 6
        return
    low = (1 - rate - comb(wrong - 1, k - 1) / comb(5, k - 1)) / sigma
    close(found, [(1 - rate) / sigma if r else low for r in rewards], 1e-9)


def test_pass_at_1_is_the_population_z_score() -> None:
    rewards = [1.0, 0, 0, 1, 0, 0]
    found = advantages(rewards, [0] * 6, "passk", "passk_std", k=1)
    close(found, advantages(rewards, [0] * 6, "group_mean", "group_std", ddof=0, eps=0.0), 1e-9)


@few
@given(REWARDS)
def test_whitened_tokens_have_mean_0_and_std_1(rewards: list[float]) -> None:
    lengths = torch.tensor([1, 5, 2, 4, 3, 3, 1, 2])
    found = advantages(rewards, list(range(8)), "none", "token_whiten", lengths_N=lengths, eps=0.0)
    assert found.shape == (8, 5)
    mask = torch.arange(5) < lengths.unsqueeze(1)
    assert bool((found[~mask] == 0).all())
    if len(set(rewards)) > 1:
        close(found[mask].mean(), 0.0, 1e-9)
        close(found[mask].std(), 1.0, 1e-9)
    else:
        assert not found.any()


def test_reward_to_go_carries_the_kl() -> None:
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    old = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, nan]], dtype=torch.float64)
    ref = torch.tensor([[-1.5, -2.0, -2.0], [-2.0, -1.0, nan]], dtype=torch.float64)
    close(reward_to_go([1.0, 2.0], old, ref, mask, 0.1), [[1.05, 1.1, 1.1], [1.9, 2.0, 0.0]])


def test_objective_advantages_put_the_kl_into_the_reward() -> None:
    mask = torch.ones(4, 2)
    old, ref = -torch.rand(4, 2, dtype=torch.float64), -torch.rand(4, 2, dtype=torch.float64)
    rewards, group = torch.tensor([1.0, 0.0, 2.0, 5.0], dtype=torch.float64), [0, 0, 1, 1]
    scores: dict[str, Any] = {"mask_NT": mask, "old_logprob_NT": old, "ref_logprob_NT": ref}
    rloo = objective_advantages(Objective.preset("rloo", beta=0.2), rewards, group, **scores)
    close(rloo, advantages(rewards - 0.2 * (old - ref).sum(dim=1), group, "group_loo", "none"))
    plus = objective_advantages(Objective.preset("reinforce_pp", beta=0.2), rewards, group, **scores)
    close(plus, whiten_tokens(reward_to_go(rewards, old, ref, mask, 0.2), mask))
    with pytest.raises(ConfigError, match="old_logprob_NT"):
        objective_advantages(Objective.preset("rloo"), rewards, group)


def test_whitening_by_the_mask_is_whitening_by_the_lengths() -> None:
    rewards, lengths = torch.tensor([1.0, 0.0, 2.0, nan, 3.0, 3.0, 3.0, 3.0]), torch.tensor([1, 3, 2, 2, 1, 1, 3, 2])
    mask = torch.arange(3) < lengths.unsqueeze(1)
    objective = Objective.preset("reinforce_pp_baseline")
    found = objective_advantages(objective, rewards, GROUPS, mask_NT=mask)
    expected = advantages(rewards, GROUPS, "group_mean", "token_whiten", lengths_N=lengths)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not found[3:].any()  # not scored, and a group without signal


@pytest.mark.parametrize("name", Objective.preset_names())
def test_every_preset_makes_advantages(name: str) -> None:
    objective = Objective.preset(name, pass_k=2)
    rewards, group = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]), GROUPS
    score = -torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    found = objective_advantages(
        objective,
        rewards,
        group,
        mask_NT=torch.ones(8, 3),
        old_logprob_NT=score,
        ref_logprob_NT=score,
        greedy_reward_N=[0.5] * 8,
    )
    assert found.shape == ((8, 3) if objective.has_token_advantages else (8,))
    first = found if found.dim() == 1 else found[:, 0]
    if objective.baseline not in ("best_minus_second",):
        assert first[0] > 0
        assert first[0] > first[1]
    assert found.dtype == torch.float32


def test_process_supervision_sums_the_steps_still_to_come() -> None:
    ends, rewards = [[2, 4], [1, 3]], [[1.0, 0.0], [0.0, 1.0]]
    std = sqrt(4 * 0.25 / 3)
    z = 0.5 / std
    found = process_advantages(ends, rewards, [0, 0], [4, 3], eps=0.0)
    close(found, [[0.0, 0.0, -z, -z], [0.0, z, z, 0.0]])
    assert not process_advantages(ends, [[1.0, 1.0], [1.0, 1.0]], [0, 0], [4, 3]).any()


def test_process_statistics_span_the_group_and_skip_the_unjudged() -> None:
    found = process_advantages([[1], [1], [2], []], [[1.0], [nan], [3.0], []], [0, 0, 0, 1], [2, 1, 2, 2], eps=0.0)
    z = 1 / sqrt(2)
    close(found, [[-z, 0.0], [0.0, 0.0], [z, z], [0.0, 0.0]])
    outcome = process_advantages([[2], [1], [3]], [[1.0], [2.0], [6.0]], [0] * 3, [2, 1, 3])
    close(outcome[:, 0], advantages([1.0, 2.0, 6.0], [0] * 3))  # one step at the end: outcome supervision


def test_step_rewards_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RewardError, match="2 step rewards for 1 step ends"):
        process_advantages([[1]], [[1.0, 2.0]], [0], [3])
    with pytest.raises(RewardError, match="token 4; expected 1 to its length 3"):
        process_advantages([[4]], [[1.0]], [0], [3])


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"baseline": "group_men"}, 'Did you mean "group_mean"'),
        ({"scale": "std"}, "unknown scale"),
        ({"baseline": "greedy"}, "greedy_reward_N"),
        ({"baseline": "length_weighted"}, "lengths_N"),
        ({"scale": "token_whiten"}, "lengths_N"),
        ({"baseline": "passk", "scale": "none"}, "needs k"),
        ({"baseline": "passk"}, "passk_std"),
    ],
)
def test_a_missing_input_is_named(keywords: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        advantages([1.0, 2.0], [0, 0], **keywords)


def test_an_infinite_reward_is_refused() -> None:
    with pytest.raises(RewardError, match="infinite"):
        advantages([1.0, float("inf")], [0, 0])


def test_rewards_are_not_written_to() -> None:
    rewards = torch.tensor([1.0, nan, 3.0, 4.0])
    before = rewards.clone()
    for scale in ("none", "group_std", "batch_std", "nonzero"):
        advantages(rewards, [0] * 4, "group_mean", scale)
    assert torch.equal(rewards, before) or torch.equal(rewards.nan_to_num(), before.nan_to_num())


def test_overlong_zone_must_fit() -> None:
    with pytest.raises(ConfigError, match="cache_length is 200"):
        overlong_penalty([1], 100, 200)
