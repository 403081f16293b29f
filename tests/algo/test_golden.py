"""The worked cases of `golden.json`, reproduced through the public contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from groupwise.algo import Objective, advantages, mix_reference, overlong_penalty, policy_loss, step_weights

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
CASES = {case["id"]: case for case in GOLDEN["cases"]}
FIXTURE = GOLDEN["fixtures"]["F1"]
TOLERANCE = GOLDEN["default_tolerance"]["float64_abs"]
GROUP = torch.tensor(FIXTURE["group"])


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def fixture(name: str) -> Tensor:
    return tensor(FIXTURE[name])


def assert_near(found: Tensor, expected: Any) -> None:
    torch.testing.assert_close(found, tensor(expected), rtol=0, atol=TOLERANCE)


def evaluate(objective: Objective, advantage_N: Tensor | None = None, **scores: Any) -> tuple[float, Tensor, Any]:
    logprob_NT = fixture("logp").requires_grad_()
    keywords = {
        "old_logprob_NT": fixture("old_logp"),
        "rollout_logprob_NT": fixture("rollout_logp"),
        "ref_logprob_NT": fixture("ref_logp"),
        "group_N": GROUP,
    }
    advantage_N = fixture("advantages") if advantage_N is None else advantage_N
    loss, stats = policy_loss(objective, logprob_NT, fixture("mask"), advantage_N, **{**keywords, **scores})
    loss.backward()
    assert logprob_NT.grad is not None
    return loss.item(), logprob_NT.grad, stats.floats()


LOSSES = {
    "C01": Objective.preset("grpo", beta=0),
    "C02": Objective.preset("grpo"),
    "C04": Objective.preset("dapo"),
    "C06": Objective.preset("dr_grpo", max_length=8),
    "C11": Objective.preset("gspo"),
    "C14": Objective.preset("cispo"),
    "C17": Objective.preset("sapo"),
    "C26": Objective.preset("dapo", mismatch="token_truncate", mismatch_max=2.0),
    "C29": Objective.preset("dapo", mismatch="seq_mask", mismatch_max=3.0),
}


@pytest.mark.parametrize("case", LOSSES)
def test_loss_and_its_gradient(case: str) -> None:
    expected = CASES[case]["expected"]
    loss, gradient, stats = evaluate(LOSSES[case])
    assert loss == pytest.approx(expected["loss"], abs=TOLERANCE)
    assert_near(gradient, expected["grad_wrt_logp"])
    for ours, theirs in (("clip_ratio/low_mean", "clip_frac_low"), ("clip_ratio/high_mean", "clip_frac_high")):
        if theirs in expected:
            assert stats[ours] == pytest.approx(expected[theirs], abs=TOLERANCE)


@pytest.mark.parametrize("aggregation", ["seq_mean_token_mean", "token_mean"])
def test_on_policy_the_loss_says_nothing_and_the_gradient_does(aggregation: Any) -> None:
    expected = CASES["C50"]["expected"][aggregation]
    advantage_N = tensor(CASES["C50"]["inputs"]["override"]["advantages"])
    expected_by_field = {
        ("none", 0.0): ("loss", "grad"),
        ("k3", 0.04): ("loss_beta0_04", "grad_beta0_04_naive"),
        ("k3_corrected", 0.04): ("loss_beta0_04", "grad_beta0_04_corrected"),
    }
    for (estimator, beta), (loss_key, gradient_key) in expected_by_field.items():
        objective = Objective.preset("grpo", aggregation=aggregation, kl=estimator, beta=beta)
        loss, gradient, stats = evaluate(objective, advantage_N, old_logprob_NT=None)
        assert loss == pytest.approx(expected[loss_key], abs=TOLERANCE)
        assert_near(gradient, expected[gradient_key])
        assert stats["clip_ratio/region_mean"] == 0


def test_micro_batches_share_the_denominator_of_the_step() -> None:
    objective, expected = Objective.preset("dapo"), CASES["C51"]["expected"]
    weights = step_weights(objective, fixture("mask"), GROUP, fixture("advantages"))

    def over(cuts: list[slice], is_global: bool) -> list[float]:
        def part(rows: slice) -> float:
            keywords = {"old_logprob_NT": fixture("old_logp")[rows], "group_N": GROUP[rows]}
            shared = {"step_weights": weights[rows]} if is_global else {}
            arrays = (fixture("logp")[rows], fixture("mask")[rows], fixture("advantages")[rows])
            return float(policy_loss(objective, *arrays, **keywords, **shared)[0])

        return [part(rows) for rows in cuts]

    halves, uneven = [slice(0, 2), slice(2, 4)], [slice(0, 1), slice(1, 4)]
    assert sum(over([slice(0, 4)], False)) == pytest.approx(expected["full_batch"], abs=TOLERANCE)
    for cuts in (halves, uneven):
        assert sum(over(cuts, True)) == pytest.approx(expected["global_denominator"], abs=TOLERANCE)
    # What averaging local means would give: the contract must be able to tell the difference.
    assert sum(over(halves, False)) / 2 == pytest.approx(expected["naive_mean_of_local_means_2_2"], abs=TOLERANCE)
    assert sum(over(uneven, False)) / 2 == pytest.approx(expected["naive_mean_of_local_means_1_3"], abs=TOLERANCE)


def test_advantages_of_one_group() -> None:
    expected, rewards = CASES["A01"]["expected"], tensor(CASES["A01"]["inputs"]["rewards"])
    lengths, group = CASES["A01"]["inputs"]["lengths"], [0, 0, 0, 0]
    found = {
        "grpo_bessel_eps1e_4": advantages(rewards, group, "group_mean", "group_std"),
        "grpo_bessel_eps1e_6": advantages(rewards, group, "group_mean", "group_std", eps=1e-6),
        "grpo_population_eps1e_4": advantages(rewards, group, "group_mean", "group_std", ddof=0),
        "grpo_population_eps0": advantages(rewards, group, "group_mean", "group_std", ddof=0, eps=0.0),
        "dr_grpo_mean_only": advantages(rewards, group, "group_mean", "none"),
        "rloo_leave_one_out": advantages(rewards, group, "group_loo", "none"),
        "maxrl_mean_normalised": advantages(rewards, group, "group_mean", "group_mean"),
        "opo_length_weighted_baseline": advantages(rewards, group, "length_weighted", "none", lengths_N=lengths),
        "grpo_passk_best_minus_second_nostd": advantages(rewards, group, "best_minus_second", "none"),
        "grpo_passk_best_minus_second_std": advantages(rewards, group, "best_minus_second", "group_std"),
    }
    assert found.keys() == expected.keys()
    for name, advantage_N in found.items():
        assert_near(advantage_N, expected[name])


def test_a_group_without_signal_is_exactly_zero() -> None:
    case = CASES["A06"]
    kinds = {
        "grpo": ("group_mean", "group_std"),
        "dr_grpo": ("group_mean", "none"),
        "rloo": ("group_loo", "none"),
    }
    for name, (baseline, scale) in kinds.items():
        found = advantages(tensor(case["inputs"]["rewards"]), [0] * 4, baseline, scale, eps=case["params"]["eps"])
        assert found.tolist() == case["expected"][name]


def test_batch_scales() -> None:
    case = CASES["A08"]
    rewards, group = tensor(case["inputs"]["rewards"]).flatten(), [0] * 4 + [1] * 4
    for name, scale in (
        ("lite_ppo_trl_batch", "batch_std"),
        ("scalerl_rpp_baseline_std_of_centred", "batch_std_centred"),
        ("group_std", "group_std"),
    ):
        assert_near(advantages(rewards, group, "group_mean", scale), case["expected"][name])


def test_several_rewards() -> None:
    case = CASES["A12"]
    rewards, group = tensor(case["inputs"]["rewards_group_G_k"]).reshape(8, 2), [0] * 4 + [1] * 4
    weights = case["inputs"]["weights"]
    each = advantages(rewards, group, "group_mean", "group_std", combine="normalise_each", weights_K=weights)
    summed = advantages(rewards, group, "group_mean", "group_std", weights_K=weights)
    assert_near(each, case["expected"]["gdpo"])
    assert_near(summed, case["expected"]["sum_then_group_normalise"])
    parts = [advantages(rewards[:, k], group, "group_mean", "group_std") for k in range(2)]
    assert_near(parts[0] + parts[1], case["expected"]["gdpo_before_batch_norm"])


def test_soft_overlong_punishment() -> None:
    case = CASES["A17"]
    penalty_N = overlong_penalty(case["inputs"]["lengths"], case["params"]["L_max"], case["params"]["L_cache"])
    assert_near(penalty_N, case["expected"]["penalty"])


def test_reference_sync() -> None:
    case = CASES["B04"]
    reference, history = case["inputs"]["ref0"], []
    for step, policy in enumerate(case["inputs"]["theta_after_step"], start=1):
        if step % case["params"]["tau"] == 0:
            reference = mix_reference(reference, policy, case["params"]["alpha"])
        history.append(reference)
    assert history == pytest.approx(case["expected"]["ref_after_step"], abs=TOLERANCE)


def test_every_case_is_tested() -> None:
    here = Path(__file__).read_text()
    assert all(f'"{case}"' in here for case in CASES)
