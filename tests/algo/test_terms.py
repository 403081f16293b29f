"""KL estimators, masks over the step, mismatch weights, controllers, stats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupwise.algo import AdaptiveEntropy, AdaptiveKL, Objective, Stats, kl, mix_reference, policy_loss, step_weights
from groupwise.algo.masks import m2_keep, top_entropy_keep
from groupwise.algo.stats import EffectiveShare, Max, Mean, Sum
from groupwise.errors import ConfigError

from .batches import make_batch, preset, weights_of

few = settings(max_examples=25, deadline=None)
GAPS = st.floats(-5, 5)


def gradient_of(estimator: Any, d: float, log_ratio: float = 0.0) -> tuple[float, float]:
    logprob = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    ref, old = logprob.detach() - d, logprob.detach() - log_ratio
    value = kl(logprob, ref, estimator, old_logprob=old)
    (gradient,) = torch.autograd.grad(value, logprob)
    return value.item(), gradient.item()


@few
@given(GAPS, st.floats(-2, 2))
def test_each_kl_estimator_has_its_value_and_gradient(d: float, x: float) -> None:
    e, r = torch.tensor(-d, dtype=torch.float64).exp().item(), torch.tensor(x, dtype=torch.float64).exp().item()
    k3 = e + d - 1
    assert gradient_of("k1", d) == pytest.approx((d, 1.0), abs=1e-9)
    assert gradient_of("k2", d) == pytest.approx((d * d / 2, d), abs=1e-9)
    assert gradient_of("k3", d) == pytest.approx((k3, 1 - e), abs=1e-9)
    assert gradient_of("k3_corrected", d, x) == pytest.approx((r * k3, r * d), abs=1e-8)
    assert gradient_of("k3_plus", d) == pytest.approx((k3, d), abs=1e-9)
    assert gradient_of("k3", d)[0] >= 0


def test_k3_is_zero_only_at_equality_and_precise_beside_it() -> None:
    assert gradient_of("k3", 0.0) == (0.0, 0.0)
    near = kl(torch.tensor(-1.0), torch.tensor(-1.0 - 1e-4))
    assert float(near) == pytest.approx(0.5e-8, rel=2e-3)  # expm1: plain exp in float32 gives noise of 1e-7


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(ConfigError, match='Did you mean "k3_plus"'):
        kl(torch.zeros(1), torch.zeros(1), "k3plus")  # type: ignore[arg-type]


def test_the_expected_gradients_on_a_three_way_choice() -> None:
    """Reverse KL for k2, k3_corrected and k3_plus; forward KL for k3; nothing for k1 (all exact sums)."""
    logits = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()

    def expected(estimator: Any) -> torch.Tensor:
        logprob = logits.log_softmax(0)
        value = (logprob.exp().detach() * kl(logprob, ref, estimator)).sum()
        return torch.autograd.grad(value, logits)[0]

    logprob = logits.log_softmax(0)
    (reverse,) = torch.autograd.grad((logprob.exp() * (logprob - ref)).sum(), logits)
    (forward,) = torch.autograd.grad((ref.exp() * (ref - logits.log_softmax(0))).sum(), logits)
    for estimator in ("k2", "k3_corrected", "k3_plus"):
        torch.testing.assert_close(expected(estimator), reverse, rtol=0, atol=1e-12)
    torch.testing.assert_close(expected("k3"), forward, rtol=0, atol=1e-12)
    torch.testing.assert_close(expected("k1"), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float((forward - reverse).abs().max()) > 0.05


@few
@given(st.integers(0, 1000), st.floats(0.05, 1.0))
def test_top_entropy_keeps_the_interpolated_quantile(seed: int, fraction: float) -> None:
    batch = make_batch(seed)
    keep_NT = top_entropy_keep(fraction, batch.entropy_NT, batch.mask_NT)
    values = batch.entropy_NT[batch.mask_NT]
    expected = values >= values.quantile(1 - fraction)
    assert torch.equal(keep_NT[batch.mask_NT], expected)


def test_a_masked_token_stays_in_the_denominator() -> None:
    batch = make_batch(1)
    plain = step_weights(Objective.preset("dapo"), batch.mask_NT, batch.group_N, batch.advantage_N)
    masked = weights_of(preset("entropy_8020"), batch)
    assert torch.equal(masked.weight_NT, plain.weight_NT)
    assert 0 < int(masked.keep_NT.sum()) < int(batch.mask_NT.sum())


def test_m2_drops_the_largest_until_the_mean_is_below() -> None:
    x = torch.tensor([[0.1, -0.2, 0.5], [1.0, 0.0, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    # squares 0.01, 0.04, 0.25, 1, 0: means of the smallest 0, .005, .0167, .075, .26
    assert m2_keep(0.04, x, mask).tolist() == [[True, True, False], [False, True, False]]
    assert m2_keep(0.08, x, mask).tolist() == [[True, True, True], [False, True, False]]
    assert not m2_keep(0.0, x, mask).any()


def test_truncated_rows_lose_their_policy_gradient_and_keep_their_place() -> None:
    batch = make_batch(2)
    is_truncated = torch.arange(12) % 3 == 0
    objective = Objective.preset("dapo")
    weights = step_weights(objective, batch.mask_NT, batch.group_N, batch.advantage_N, is_truncated_N=is_truncated)
    assert not weights.keep_NT[is_truncated].any()
    assert torch.equal(weights.keep_NT[~is_truncated], batch.mask_NT[~is_truncated])
    assert float(weights.weight_NT.sum()) == pytest.approx(1.0)
    off = Objective.preset("dapo", mask_truncated=False)
    ignored = step_weights(off, batch.mask_NT, batch.group_N, batch.advantage_N, is_truncated_N=is_truncated)
    assert torch.equal(ignored.keep_NT, batch.mask_NT)


def test_off_policy_rows_are_dropped_only_when_they_did_badly() -> None:
    logprob = torch.tensor([[-2.0, -2.0], [-2.0, -2.0], [-1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    sampled = torch.full((3, 2), -1.0, dtype=torch.float64)
    mask, advantage = torch.ones(3, 2), torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)
    objective = Objective(beta=0, off_policy_threshold=0.5, trust_region="ratio")
    for scores in ({"old_logprob_NT": sampled}, {"old_logprob_NT": logprob.detach(), "rollout_logprob_NT": sampled}):
        loss, _ = policy_loss(objective, logprob, mask, advantage, **scores)
        (gradient,) = torch.autograd.grad(loss, logprob)
        assert (gradient != 0).any(dim=1).tolist() == [False, True, True]


def test_clip_cov_silences_tokens_in_its_band() -> None:
    batch = make_batch(3)
    objective = preset("clip_cov")
    weights = weights_of(objective, batch)
    dropped = batch.mask_NT & ~weights.keep_NT
    advantage = batch.advantage_N.unsqueeze(1).expand_as(batch.mask_NT)
    mean_a, mean_l = advantage[batch.mask_NT].mean(), batch.logprob_NT[batch.mask_NT].mean()
    covariance = (advantage - mean_a) * (batch.logprob_NT - mean_l)
    assert 0 < int(dropped.sum()) <= int(0.2 * int(batch.mask_NT.sum()))
    assert bool(((covariance[dropped] > 0) & (covariance[dropped] < 5)).all())


def test_kl_cov_picks_the_largest_covariances() -> None:
    batch = make_batch(3)
    weights = weights_of(preset("kl_cov"), batch)
    advantage = batch.advantage_N.unsqueeze(1).expand_as(batch.mask_NT)
    mean_a, mean_l = advantage[batch.mask_NT].mean(), batch.logprob_NT[batch.mask_NT].mean()
    covariance = (advantage - mean_a) * (batch.logprob_NT - mean_l)
    picked = weights.penalty_NT & batch.mask_NT
    assert float(covariance[picked].min()) >= float(covariance[batch.mask_NT & ~picked].max())


def test_masks_over_the_step_say_what_they_need() -> None:
    batch = make_batch(0)
    arguments = (batch.mask_NT, batch.group_N, batch.advantage_N)
    with pytest.raises(ConfigError, match="logprob_NT"):
        step_weights(preset("m2po"), *arguments)
    with pytest.raises(ConfigError, match="entropy_NT"):
        step_weights(preset("entropy_8020"), *arguments)
    with pytest.raises(ConfigError, match="max_length"):
        step_weights(Objective.preset("dr_grpo"), *arguments)
    with pytest.raises(ConfigError, match="group_N"):
        step_weights(Objective.preset("scalerl"), batch.mask_NT, None, batch.advantage_N)
    with pytest.raises(ConfigError, match="ref_logprob_NT"):
        policy_loss(Objective(), batch.logprob_NT, batch.mask_NT, batch.advantage_N)
    with pytest.raises(ConfigError, match="rollout_logprob_NT"):
        policy_loss(Objective.preset("aipo"), batch.logprob_NT, batch.mask_NT, batch.advantage_N)
    with pytest.raises(ConfigError, match="seq_geo_token"):
        policy_loss(Objective.preset("gspo"), batch.logprob_NT, batch.mask_NT, batch.logprob_NT)


def test_an_adaptive_beta_replaces_the_fixed_one() -> None:
    batch = make_batch(5)
    scores = {"ref_logprob_NT": batch.ref_NT}
    arguments = (batch.logprob_NT, batch.mask_NT, batch.advantage_N)
    fixed, _ = policy_loss(Objective(beta=0.3), *arguments, **scores)
    replaced, _ = policy_loss(Objective(beta=0.04), *arguments, beta=0.3, **scores)
    assert fixed == replaced


def test_adaptive_kl_moves_toward_its_target() -> None:
    controller = AdaptiveKL(coefficient=0.1, target=6.0, horizon=1000)
    assert controller.update(6.0, 100).coefficient == 0.1
    assert controller.update(6.6, 100).coefficient == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert controller.update(60.0, 100).coefficient == pytest.approx(0.1 * (1 + 0.2 * 0.1))
    assert controller.update(0.0, 100).coefficient == pytest.approx(0.1 * (1 - 0.2 * 0.1))


def test_adaptive_entropy_acts_only_below_its_target() -> None:
    controller = AdaptiveEntropy()
    assert controller.coefficient == 0
    low = controller.update(0.1).update(0.1)
    assert low.coefficient == pytest.approx(0.01)
    high = low.update(0.5)
    assert (high.value, high.coefficient) == (pytest.approx(0.005), 0.0)
    assert AdaptiveEntropy(value=1.0).update(0.1).value == 1.0


def test_mixing_references_returns_new_weights() -> None:
    reference, policy = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 2.0])}
    mixed = mix_reference(reference, policy, 0.6)
    torch.testing.assert_close(mixed["w"], torch.tensor([2.2, 2.0]))
    assert reference["w"].tolist() == [1.0, 2.0]
    assert torch.equal(mix_reference(reference, policy, 1.0)["w"], policy["w"])


def test_stats_merge_and_read() -> None:
    one = Stats({"loss": Sum(1.0), "kl": None, "m": Mean(2.0, 4), "x": Max(3.0), "e": EffectiveShare(2.0, 2.0, 2)})
    two = Stats({"loss": Sum(2.0), "kl": Mean(1.0, 2), "m": Mean(4.0, 2), "x": Max(1.0), "e": EffectiveShare(0, 0, 2)})
    merged = Stats.merge_all([one, two])
    assert merged.floats() == {"loss": 3.0, "kl": 0.5, "m": 1.0, "x": 3.0, "e": 0.5}
    assert one["m"] == Mean(2.0, 4)
    assert Stats({"m": Mean(0.0, 0), "kl": None}).floats() == {"m": None, "kl": None}


def test_mismatch_is_measured_over_loss_tokens() -> None:
    batch = make_batch(6)
    _, stats = policy_loss(
        Objective(beta=0),
        batch.logprob_NT,
        batch.mask_NT,
        batch.advantage_N,
        old_logprob_NT=batch.old_NT,
        rollout_logprob_NT=batch.rollout_NT,
        ref_logprob_NT=batch.ref_NT,
    )
    gap = (batch.old_NT - batch.rollout_NT)[batch.mask_NT]
    d = (batch.logprob_NT - batch.ref_NT)[batch.mask_NT]
    rho = gap.exp()
    measured = stats.floats()
    assert measured["sampling/mismatch"] == pytest.approx(float(gap.abs().exp().mean()))
    assert measured["sampling/sampling_logp_difference/mean"] == pytest.approx(float(gap.abs().mean()))
    assert measured["sampling/sampling_logp_difference/max"] == pytest.approx(float(gap.abs().max()))
    assert measured["sampling/effective_share"] == pytest.approx(float(rho.sum() ** 2 / rho.square().sum() / len(rho)))
    assert measured["kl"] == pytest.approx(float(((-d).exp() + d - 1).mean()))
    assert measured["kl/k1"] == pytest.approx(float(d.mean()))
    assert measured["ratio/max"] == pytest.approx(float((batch.logprob_NT - batch.old_NT)[batch.mask_NT].exp().max()))
