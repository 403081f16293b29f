"""Every axis value and every preset against the objective written straight from the formula (`written.py`)."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from groupwise.algo import Objective, axes

from .batches import Batch, loss_of, make_batch, preset, weights_of
from .written import written_loss

REGIONS = get_args(axes.TrustRegion)
BOUNDS = {"epsilon_low": 0.2, "epsilon_high": 0.28, "mismatch_min": 0.7, "mismatch_max": 1.4}


def written_of(objective: Objective, batch: Batch, keep_NT: Tensor, **changes: Any) -> tuple[Tensor, Tensor]:
    logprob_NT = batch.logprob_NT.clone().requires_grad_()
    loss = written_loss(objective, logprob_NT, batch, keep_NT, **changes)
    loss.backward()
    assert logprob_NT.grad is not None
    return loss.detach(), logprob_NT.grad


def assert_as_written(objective: Objective, seed: int = 0, **changes: Any) -> None:
    batch = make_batch(seed)
    weights = weights_of(objective, batch)
    loss, gradient, _ = loss_of(objective, batch, step_weights=weights, **changes)
    expected_loss, expected = written_of(objective, batch, weights.keep_NT, **changes)
    tolerance = 1e-12 * max(1.0, float(expected.abs().max()))
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(gradient, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("region", REGIONS)
def test_trust_region(region: Any) -> None:
    for seed in range(3):
        assert_as_written(Objective(trust_region=region, beta=0, threshold=0.3, **BOUNDS), seed)


@pytest.mark.parametrize(
    "fields",
    [
        {"trust_region": "clip", "delta": 1.5},
        {"trust_region": "clip", "epsilon_low": 10.0, "epsilon_high": 10.0},
        {"trust_region": "weight_clip", "weight_min": 0.9, "weight_max": 1.2},
        {"trust_region": "div_mask", "anchor": "rollout", "weight_cap": 1.1, "divergence_low": 0.1},
        {"trust_region": "div_mask", "anchor": "rollout", "divergence": "kl", "divergence_high": 0.05},
        {"trust_region": "gamma", "level": "seq_prod", "mismatch": "token_truncate", "mismatch_max": 1.3},
        {"trust_region": "topr", "level": "seq_prod", "anchor": "rollout"},
        {"trust_region": "dro", "tau": 0.7},
        {"trust_region": "squared", "tau": 0.3},
        {"trust_region": "ratio", "log_ratio_penalty": 0.1},
        {"trust_region": "clip", "anchor": "self"},
        {"trust_region": "band_mask", "band_low": -0.1, "band_high": 0.3},
        {"trust_region": "geo_clip", "epsilon_low": 0.1, "epsilon_high": 0.3},
    ],
)
def test_the_numbers_of_a_trust_region(fields: dict[str, Any]) -> None:
    assert_as_written(Objective(**{"beta": 0.0, **fields}))


def test_demonstration_rows() -> None:
    is_demo_N = torch.arange(12) % 4 == 0
    assert_as_written(Objective(trust_region="luffy", beta=0), is_demo_N=is_demo_N)


@pytest.mark.parametrize("level", get_args(axes.Level))
@pytest.mark.parametrize("region", ["clip", "ratio", "sapo", "weight_clip"])
def test_level(level: Any, region: Any) -> None:
    assert_as_written(Objective(level=level, trust_region=region, beta=0))


@pytest.mark.parametrize("aggregation", get_args(axes.Aggregation))
def test_aggregation(aggregation: Any) -> None:
    assert_as_written(Objective(aggregation=aggregation, max_length=9))


@pytest.mark.parametrize("estimator", get_args(axes.KL))
@pytest.mark.parametrize("anchor", get_args(axes.Anchor))
def test_kl(estimator: Any, anchor: Any) -> None:
    assert_as_written(Objective(kl=estimator, anchor=anchor, beta=0.3))


@pytest.mark.parametrize("mismatch", get_args(axes.Mismatch))
@pytest.mark.parametrize("bounds", [(0.7, 1.4), (None, 1.1), (None, None)])
def test_mismatch(mismatch: Any, bounds: tuple[float | None, float | None]) -> None:
    assert_as_written(
        Objective(mismatch=mismatch, mismatch_min=bounds[0], mismatch_max=bounds[1], trust_region="ratio", beta=0)
    )


@pytest.mark.parametrize("name", Objective.preset_names())
def test_preset(name: str) -> None:
    assert_as_written(preset(name, entropy_coef=0.0, covariance_coef=0.0))  # both have tests of their own


def test_kl_cov_adds_the_sign_of_the_log_ratio() -> None:
    batch = make_batch(1)
    objective = preset("kl_cov", covariance_coef=0.7)
    weights = weights_of(objective, batch)
    _, with_penalty, _ = loss_of(objective, batch, step_weights=weights)
    _, without, _ = loss_of(preset("kl_cov", covariance_coef=0.0), batch, step_weights=weights)
    sign_NT = (batch.logprob_NT - batch.old_NT).sign() * weights.penalty_NT * weights.weight_NT
    assert int(weights.penalty_NT.sum()) == int(0.2 * int(batch.mask_NT.sum()))
    torch.testing.assert_close(with_penalty - without, 0.7 * sign_NT, rtol=0, atol=1e-12)


def test_a_wrong_sign_would_be_found() -> None:
    batch = make_batch(0)
    objective = Objective(beta=0)
    expected_loss, expected = written_of(objective, batch, batch.mask_NT)
    flipped = Batch(**{**vars(batch), "advantage_N": -batch.advantage_N})
    loss, gradient, _ = loss_of(objective, flipped)
    assert abs(float(loss - expected_loss)) > 1e-3
    assert float((gradient - expected).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "cispo", "sapo", "prime_rl", "vespo", "gmpo"])
def test_float32_follows_float64(name: str) -> None:
    batch = make_batch(3)
    single = Batch(**{k: v.float() if v.is_floating_point() else v for k, v in vars(batch).items()})
    _, gradient, _ = loss_of(preset(name), batch)
    loss, found, _ = loss_of(preset(name), single)
    assert loss.dtype == torch.float32
    tolerance = 2e-5 * max(1.0, float(gradient.abs().max()))
    torch.testing.assert_close(found.double(), gradient, rtol=0, atol=tolerance)
