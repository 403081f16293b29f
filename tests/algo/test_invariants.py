"""What must hold for any batch: micro-batches, order, padding, on-policy values, clipping."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groupwise.algo import Objective, policy_loss, step_weights
from groupwise.algo.stats import Stats

from .batches import Batch, arguments, loss_of, make_batch, preset, weights_of

SEEDS = st.integers(0, 10_000)
few = settings(max_examples=8, deadline=None)

RATIO_VALUED = ["grpo", "dr_grpo", "dapo", "verl_default", "gspo", "gspo_token", "prime_rl", "intellect2", "tinker"]
"""Presets whose loss of a token at r = 1 is -A."""
FIRST_STEP_ALIKE = [
    *("ratio", "clip", "weight_clip", "reinforce", "div_mask", "abs_mask", "band_mask", "m2_mask"),
    *("topr", "luffy", "dro", "sapo", "gamma", "geo_clip"),
]


def in_parts(objective: Objective, batch: Batch, num_parts: int) -> tuple[float, Tensor, dict[str, float | None]]:
    """The same step cut into micro-batches: (summed loss, gradient, merged stats)."""
    weights = weights_of(objective, batch)
    logprob_NT = batch.logprob_NT.clone().requires_grad_()
    total, parts = 0.0, []
    for rows in torch.arange(len(batch.mask_NT)).chunk(num_parts):
        part = batch.rows(rows)
        scores = arguments(part)
        loss, stats = policy_loss(
            objective, logprob_NT[rows], part.mask_NT, part.advantage_N, step_weights=weights[rows], **scores
        )
        loss.backward()
        total, parts = total + loss.item(), [*parts, stats]
    assert logprob_NT.grad is not None
    return total, logprob_NT.grad, Stats.merge_all(parts).floats()


@pytest.mark.parametrize("name", Objective.preset_names())
def test_micro_batches_change_nothing(name: str) -> None:
    objective, batch = preset(name, entropy_coef=0.01), make_batch(7)
    loss, gradient, stats = in_parts(objective, batch, 1)
    for num_parts in (2, 4, 7):
        part_loss, part_gradient, part_stats = in_parts(objective, batch, num_parts)
        assert part_loss == pytest.approx(loss, abs=1e-10)
        torch.testing.assert_close(part_gradient, gradient, rtol=0, atol=1e-10)
        assert part_stats == pytest.approx(stats, abs=1e-10)


def test_a_mean_per_micro_batch_would_be_found() -> None:
    objective, batch = preset("dapo"), make_batch(7)
    whole, _, _ = loss_of(objective, batch)
    halves = [loss_of(objective, batch.rows(rows))[0] for rows in torch.arange(12).split(6)]
    assert abs(float(sum(halves)) / 2 - float(whole)) > 1e-4


@few
@given(SEEDS, st.sampled_from(Objective.preset_names()))
def test_order_and_padding_change_nothing(seed: int, name: str) -> None:
    objective, batch = preset(name), make_batch(seed)
    if objective.covariance == "clip_cov":  # draws tokens at random, in order
        return
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    loss, gradient, _ = loss_of(objective, batch)
    shuffled_loss, shuffled, _ = loss_of(objective, batch.rows(order))
    torch.testing.assert_close(shuffled_loss, loss, rtol=0, atol=1e-10)
    torch.testing.assert_close(shuffled, gradient[order], rtol=0, atol=1e-10)

    def wider(values: Tensor) -> Tensor:
        return values if values.dim() == 1 else torch.nn.functional.pad(values, (0, 3))

    padded = Batch(**{key: wider(value) for key, value in vars(batch).items()})
    padded_loss, padded_gradient, _ = loss_of(objective, padded)
    torch.testing.assert_close(padded_loss, loss, rtol=0, atol=1e-10)
    torch.testing.assert_close(padded_gradient, wider(gradient), rtol=0, atol=1e-10)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", Objective.preset_names())
def test_padding_never_reaches_value_or_gradient(name: str, poison: float) -> None:
    objective, batch = preset(name), make_batch(11)
    holes = torch.zeros_like(batch.mask_NT)
    holes[0, 0] = holes[5, 1] = True  # a tool token in the middle counts as padding
    masked = replace(batch, mask_NT=batch.mask_NT & ~holes)

    def poisoned(values: Tensor) -> Tensor:
        return values.where(masked.mask_NT, torch.full_like(values, poison)) if values.dim() == 2 else values

    dirty = Batch(**{k: v if k == "mask_NT" else poisoned(v) for k, v in vars(masked).items()})
    loss, gradient, stats = loss_of(objective, masked)
    dirty_loss, dirty_gradient, dirty_stats = loss_of(objective, dirty)
    assert dirty_loss == loss
    assert torch.equal(dirty_gradient, gradient)
    assert bool((dirty_gradient[~masked.mask_NT] == 0).all())
    assert dirty_stats.floats() == stats.floats()


@pytest.mark.parametrize("name", Objective.preset_names())
def test_inputs_are_never_written_to(name: str) -> None:
    objective, batch = preset(name), make_batch(5)
    before = {key: value.clone() for key, value in vars(batch).items()}
    weights = weights_of(objective, batch)
    kept = {key: None if value is None else value.clone() for key, value in _fields(weights).items()}
    loss_of(objective, batch, step_weights=weights)
    for key, value in vars(batch).items():
        assert torch.equal(value, before[key])
    for key, value in _fields(weights).items():
        assert value is None or torch.equal(value, kept[key])


def _fields(weights: Any) -> dict[str, Any]:
    names = ("weight_NT", "keep_NT", "mismatch_NT", "penalty_NT", "entropy_weight_NT")
    return {name: getattr(weights, name) for name in names}


@pytest.mark.parametrize("region", FIRST_STEP_ALIKE)
@pytest.mark.parametrize("aggregation", ["seq_mean_token_mean", "token_mean", "constant"])
def test_on_policy_all_regions_have_the_same_gradient(region: Any, aggregation: Any) -> None:
    objective = Objective(trust_region=region, aggregation=aggregation, beta=0, max_length=6)
    batch = make_batch(2).on_policy()
    weights = weights_of(objective, batch)
    _, gradient, stats = loss_of(objective, batch)
    expected = -weights.weight_NT * batch.advantage_N.unsqueeze(1)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    assert stats.floats()["clip_ratio/region_mean"] == 0


def test_squared_is_the_exception_on_policy() -> None:
    objective, batch = Objective(trust_region="squared", beta=0), make_batch(2).on_policy()
    weights = weights_of(objective, batch)
    _, gradient, _ = loss_of(objective, batch)
    assert float((gradient + weights.weight_NT * batch.advantage_N.unsqueeze(1)).abs().max()) > 1e-3


@few
@given(SEEDS, st.sampled_from(["grpo", "gspo", "gspo_token", "intellect2", "prime_rl", "gmpo"]))
def test_on_policy_the_loss_is_zero_and_with_kl_it_is_beta_times_kl(seed: int, name: str) -> None:
    batch = make_batch(seed).on_policy()
    objective = preset(name, aggregation="seq_mean_token_mean", beta=0.0)
    largest = float(batch.advantage_N.abs().max())
    loss, gradient, _ = loss_of(objective, batch)
    assert abs(float(loss)) <= 1e-6 * largest
    assert float(gradient.abs().max()) > 0
    objective = preset(name, aggregation="seq_mean_token_mean", beta=0.3, kl="k3")
    loss, _, stats = loss_of(objective, batch)
    d_NT = batch.ref_NT - batch.logprob_NT
    mean_kl = (weights_of(objective, batch).weight_NT * (torch.expm1(d_NT) - d_NT)).sum()
    assert float(loss) == pytest.approx(0.3 * float(mean_kl), abs=1e-6)
    assert stats.floats()["kl_loss"] == pytest.approx(0.3 * float(mean_kl), abs=1e-12)


def test_under_token_mean_the_loss_is_not_zero_when_lengths_differ() -> None:
    batch = make_batch(2).on_policy()
    assert len(set(batch.mask_NT.sum(dim=1).tolist())) > 1
    for name in RATIO_VALUED:
        loss, _, _ = loss_of(preset(name, aggregation="token_mean", beta=0.0), batch)
        assert abs(float(loss)) > 1e-3


@few
@given(SEEDS, st.floats(1.3, 4.0))
def test_a_clipped_token_has_no_gradient_and_a_capped_weight_always_has(seed: int, delta: float) -> None:
    batch = make_batch(seed)
    r = (batch.logprob_NT - batch.old_NT).exp()
    A = batch.advantage_N.unsqueeze(1)
    silenced = batch.mask_NT & (((A > 0) & (r > 1.2)) | ((A < 0) & ((r < 0.8) | (r > delta))))
    _, gradient, stats = loss_of(Objective(beta=0, delta=delta), batch)
    assert bool((gradient[silenced] == 0).all())
    assert bool((gradient[batch.mask_NT & ~silenced] != 0).all())
    measured = stats.floats()
    assert measured["clip_ratio/region_mean"] == pytest.approx(float(silenced.sum() / batch.mask_NT.sum()))
    low, high = measured["clip_ratio/low_mean"], measured["clip_ratio/high_mean"]
    assert low is not None
    assert high is not None
    assert low + high == pytest.approx(measured["clip_ratio/region_mean"])
    _, weighted, _ = loss_of(Objective(beta=0, trust_region="weight_clip", weight_max=1.2), batch)
    assert bool((weighted[batch.mask_NT] != 0).all())


@few
@given(SEEDS)
def test_identities_between_presets(seed: int) -> None:
    batch = make_batch(seed)

    def gradient(**fields: Any) -> Tensor:
        return loss_of(Objective(**{"beta": 0.0, **fields}), batch)[1]

    def same(a: Tensor, b: Tensor) -> None:
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

    clip = {"epsilon_low": 3e-2, "epsilon_high": 4e-2}
    same(gradient(level="seq_geo", **clip), gradient(level="seq_geo_token", **clip))  # GSPO = GSPO-token
    wide = {"trust_region": "weight_clip", "weight_max": 1e9}
    same(gradient(**wide), gradient(trust_region="ratio"))  # CISPO in bounds = importance sampling
    rho = (batch.old_NT - batch.rollout_NT).exp()
    decoupled = gradient(mismatch="token_truncate")
    same(decoupled, rho * gradient())  # decoupled PPO = token TIS without a cap
    assert float((decoupled - gradient()).abs().max()) > 1e-3


@few
@given(SEEDS, st.sampled_from(["token", "seq", "geo"]), st.sampled_from(["truncate", "mask"]))
def test_without_mismatch_every_correction_is_the_identity(seed: int, level: str, operation: str) -> None:
    batch = make_batch(seed)
    batch = replace(batch, rollout_NT=batch.old_NT)
    corrected = Objective(mismatch=f"{level}_{operation}", mismatch_min=0.5, mismatch_max=2.0, beta=0)  # type: ignore[arg-type]
    loss, gradient, _ = loss_of(corrected, batch)
    plain_loss, plain, _ = loss_of(Objective(beta=0), batch)
    assert loss == plain_loss
    assert torch.equal(gradient, plain)


def test_a_group_without_signal_adds_nothing_but_keeps_its_place_in_the_denominator() -> None:
    batch = make_batch(4)
    silent = replace(batch, advantage_N=batch.advantage_N.where(batch.group_N != 1, torch.zeros(())))
    for name in ("grpo", "dapo", "dr_grpo", "scalerl", "luspo"):
        objective = preset(name, beta=0.0)
        weights = weights_of(objective, silent)
        rows = (silent.group_N != 1).nonzero().squeeze(1)
        loss, gradient, _ = loss_of(objective, silent, step_weights=weights)
        skipped_loss, skipped, _ = loss_of(objective, silent.rows(rows), step_weights=weights[rows])
        torch.testing.assert_close(skipped_loss, loss, rtol=0, atol=1e-12)
        assert torch.equal(gradient[silent.group_N == 1], torch.zeros_like(gradient[silent.group_N == 1]))
        torch.testing.assert_close(skipped, gradient[rows], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", Objective.preset_names())
def test_an_advantage_of_zero_has_a_gradient_only_where_the_objective_says_so(name: str) -> None:
    batch = make_batch(4)
    silent = replace(batch, advantage_N=torch.zeros_like(batch.advantage_N))
    for objective in (preset(name), preset(name, beta=0.0, kl_in_reward="none", entropy_coef=0.0)):
        logprob_NT = batch.logprob_NT.clone().requires_grad_()
        entropy_NT = -logprob_NT  # a stand-in with gradient
        keywords = {**arguments(silent), "entropy_NT": entropy_NT}
        loss, _ = policy_loss(objective, logprob_NT, silent.mask_NT, silent.advantage_N, **keywords)
        loss.backward()
        assert logprob_NT.grad is not None
        assert bool(logprob_NT.grad.any()) == objective.acts_without_advantage


def test_a_step_without_log_probs_leaves_the_row_terms_to_the_loss() -> None:
    batch = make_batch(3)
    scores = {"rollout_logprob_NT": batch.rollout_NT}
    for fields in ({"mismatch": "seq_mask", "mismatch_max": 1.5}, {"off_policy_threshold": 0.1}):
        objective = Objective(beta=0, **fields)  # type: ignore[arg-type]
        arrays = (batch.mask_NT, batch.group_N, batch.advantage_N)
        early = step_weights(objective, *arrays, **scores)
        late = step_weights(objective, *arrays, logprob_NT=batch.logprob_NT, **scores)
        assert early.mismatch_NT is None
        losses = [
            policy_loss(objective, batch.logprob_NT, batch.mask_NT, batch.advantage_N, step_weights=weights, **scores)[
                0
            ]
            for weights in (early, late)
        ]
        assert losses[0] == losses[1]
        plain, _ = policy_loss(Objective(beta=0), batch.logprob_NT, batch.mask_NT, batch.advantage_N)
        assert abs(float(losses[0] - plain)) > 1e-3


def test_a_part_of_the_step_may_be_narrower() -> None:
    batch, objective = make_batch(3), Objective.preset("dapo")
    weights = weights_of(objective, batch)
    rows = (batch.mask_NT.sum(dim=1) <= 4).nonzero().squeeze(1)
    part = batch.rows(rows)
    loss, gradient, _ = loss_of(objective, part, step_weights=weights[rows])
    narrow = Batch(**{k: v[:, :4] if v.dim() == 2 else v for k, v in vars(part).items()})
    narrow_loss, narrow_gradient, _ = loss_of(objective, narrow, step_weights=weights[rows, :4])
    torch.testing.assert_close(narrow_loss, loss, rtol=0, atol=1e-15)
    torch.testing.assert_close(narrow_gradient, gradient[:, :4], rtol=0, atol=1e-15)


def test_without_old_log_probs_the_policy_is_its_own_old() -> None:
    batch = make_batch(6)
    objective = Objective.preset("dapo")
    alone, stats = policy_loss(objective, batch.logprob_NT, batch.mask_NT, batch.advantage_N)
    given_old, _ = policy_loss(
        objective, batch.logprob_NT, batch.mask_NT, batch.advantage_N, old_logprob_NT=batch.logprob_NT
    )
    assert alone == given_old
    measured = stats.floats()
    assert measured["ratio/max"] == 1
    assert measured["kl"] is None
    assert measured["sampling/mismatch"] is None


def test_one_micro_batch_of_token_mean_is_the_widely_copied_line() -> None:
    batch = make_batch(8)
    loss, _, _ = loss_of(Objective.preset("bnpo"), batch)
    r = (batch.logprob_NT - batch.old_NT).exp()
    A = batch.advantage_N.unsqueeze(1)
    per_token = -torch.minimum(r * A, r.clamp(0.8, 1.2) * A)
    mask = batch.mask_NT.double()
    torch.testing.assert_close(loss, (per_token * mask).sum() / mask.sum(), rtol=0, atol=1e-12)


def test_the_entropy_bonus_is_the_mean_over_the_tokens_of_the_step() -> None:
    batch = make_batch(9)
    plain, _, _ = loss_of(Objective.preset("dapo"), batch)
    bonus, _, stats = loss_of(Objective.preset("dapo", entropy_coef=0.5), batch)
    mean_entropy = batch.entropy_NT[batch.mask_NT].mean()
    torch.testing.assert_close(bonus, plain - 0.5 * mean_entropy, rtol=0, atol=1e-12)
    assert stats.floats()["entropy"] == pytest.approx(float(mean_entropy))
    entropy_NT = batch.entropy_NT.clone().requires_grad_()
    keywords = {**arguments(batch), "entropy_NT": entropy_NT}
    loss, _ = policy_loss(
        Objective.preset("dapo", entropy_coef=0.5), batch.logprob_NT, batch.mask_NT, batch.advantage_N, **keywords
    )
    loss.backward()
    assert entropy_NT.grad is not None
    expected = -0.5 * batch.mask_NT.double() / batch.mask_NT.sum()
    torch.testing.assert_close(entropy_NT.grad, expected, rtol=0, atol=1e-15)
