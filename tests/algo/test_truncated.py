"""Completions masked because they were truncated: weight 0 everywhere, out of the token counts, kept in the others."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from groupwise.algo import Objective, policy_loss, step_weights

from .batches import Batch, arguments, make_batch, preset, weights_of

# Two groups of two; rows 1 and 3 are cut off. 5 of 17 tokens remain, 2 in the first group and 3 in the second.
LENGTHS = torch.tensor([2, 6, 3, 6])
MASK = torch.arange(6) < LENGTHS.unsqueeze(1)
GROUP = [0, 0, 1, 1]
ADVANTAGE = torch.tensor([1.0, -1.0, 2.0, -2.0], dtype=torch.float64)
CUT = [False, True, False, True]
K3 = 0.5 + math.log(2) - 1
"""k3 of a token that the policy likes twice as much as the reference does."""

BY_HAND: dict[str, tuple[float, float, float]] = {
    # aggregation: weight of a token of row 0, of row 2, the policy loss on-policy: -(2 w0 + 2 x 3 w2)
    "seq_mean_token_mean": (1 / 8, 1 / 12, -0.75),
    "token_mean": (1 / 5, 1 / 5, -1.6),
    "prompt_mean": (1 / 4, 1 / 6, -1.5),
    "constant": (1 / 24, 1 / 24, -1 / 3),
    "seq_mean_token_sum": (1 / 4, 1 / 4, -2.0),
    "token_sum": (1.0, 1.0, -8.0),
}


def objective(aggregation: Any, **fields: Any) -> Objective:
    return Objective(aggregation=aggregation, max_length=6, mask_truncated=True, **fields)


def evaluate(objective: Objective, is_truncated: list[bool], **coefficients: float) -> tuple[Tensor, Tensor, Any]:
    """(loss, gradient, stats) on-policy, each token twice as likely as under the reference, entropy 3 a token."""
    logprob_NT = torch.full((4, 6), -1.0, dtype=torch.float64).requires_grad_()
    weights = step_weights(objective, MASK, GROUP, ADVANTAGE, is_truncated_N=is_truncated)
    loss, stats = policy_loss(
        objective,
        logprob_NT,
        MASK,
        ADVANTAGE,
        ref_logprob_NT=logprob_NT.detach() - math.log(2),
        entropy_NT=torch.full((4, 6), 3.0, dtype=torch.float64),
        step_weights=weights,
        **coefficients,
    )
    loss.backward()
    assert logprob_NT.grad is not None
    return loss.detach(), logprob_NT.grad, stats.floats()


@pytest.mark.parametrize("aggregation", BY_HAND)
def test_the_weights_by_hand(aggregation: str) -> None:
    first, third, _ = BY_HAND[aggregation]
    found = step_weights(objective(aggregation), MASK, GROUP, ADVANTAGE, is_truncated_N=CUT)
    expected = torch.tensor([first, 0.0, third, 0.0], dtype=torch.float64).unsqueeze(1) * MASK
    torch.testing.assert_close(found.weight_NT, expected, rtol=0, atol=1e-15)
    assert found.entropy_weight_NT is not None
    kept = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64).unsqueeze(1) * MASK / 5
    torch.testing.assert_close(found.entropy_weight_NT, kept, rtol=0, atol=1e-15)


@pytest.mark.parametrize("aggregation", BY_HAND)
def test_the_loss_by_hand(aggregation: str) -> None:
    first, third, policy = BY_HAND[aggregation]
    loss, gradient, stats = evaluate(objective(aggregation, beta=0.04, entropy_coef=0.1), CUT)
    kl = 0.04 * (2 * first + 3 * third) * K3
    assert loss.item() == pytest.approx(policy + kl - 0.1 * 3.0, abs=1e-12)
    assert stats["policy_loss"] == pytest.approx(policy, abs=1e-12)
    assert stats["kl_loss"] == pytest.approx(kl, abs=1e-12)
    assert (stats["kl"], stats["entropy"]) == (pytest.approx(K3), pytest.approx(3.0))
    assert not gradient[[1, 3]].any()
    # d(-r A)/dl = -A on-policy, d k3/dl = 1 - exp(-ln 2)
    assert gradient[0, 0].item() == pytest.approx(first * (-1.0 + 0.04 * 0.5), abs=1e-12)
    assert gradient[2, 0].item() == pytest.approx(third * (-2.0 + 0.04 * 0.5), abs=1e-12)


def test_a_group_of_truncated_completions_still_counts_as_a_group() -> None:
    found = step_weights(objective("prompt_mean"), MASK, GROUP, ADVANTAGE, is_truncated_N=[False, True, True, True])
    assert found.weight_NT[0, 0].item() == pytest.approx(1 / (2 * 2))
    assert float(found.weight_NT.sum()) == pytest.approx(0.5)


@pytest.mark.parametrize("aggregation", BY_HAND)
def test_where_all_are_truncated_the_loss_is_0_and_nothing_is_not_a_number(aggregation: str) -> None:
    loss, gradient, stats = evaluate(objective(aggregation, beta=0.04, entropy_coef=0.1), [True] * 4)
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros(4, 6, dtype=torch.float64))
    assert (stats["kl"], stats["entropy"], stats["masked_ratio"]) == (None, None, 1.0)


def test_the_share_of_masked_tokens_counts_the_truncated_ones() -> None:
    _, _, stats = evaluate(objective("token_mean", beta=0.0), CUT)
    assert stats["masked_ratio"] == pytest.approx(12 / 17)


def test_without_the_mask_truncated_completions_are_like_all_others() -> None:
    plain = Objective(aggregation="token_mean")
    found = step_weights(plain, MASK, GROUP, ADVANTAGE, is_truncated_N=CUT)
    assert torch.equal(found.weight_NT, MASK.double() / 17)


# Presets whose axes reach every term: penalties that no keep-mask touches, masks that rank the tokens of the step,
# pooled ratios, corrections for the engine.
PRESETS: list[tuple[str, dict[str, Any]]] = [
    ("grpo", {}),
    ("dapo", {"beta": 0.04}),
    ("gspo", {}),
    ("cispo", {}),
    ("sapo", {}),
    ("vespo", {}),
    ("luspo", {}),
    ("dr_grpo", {}),
    ("entropy_8020", {"entropy_coef": 0.1}),
    ("clip_cov", {}),
    ("kl_cov", {}),
    ("m2po", {}),
    ("dsv32", {}),
    ("grpo", {"log_ratio_penalty": 0.3}),
    ("dapo", {"mismatch": "seq_truncate", "mismatch_max": 2.0}),
    ("dapo", {"aggregation": "prompt_mean"}),
]


@pytest.mark.parametrize(("name", "fields"), PRESETS, ids=str)
def test_a_truncated_completion_acts_like_one_without_tokens(name: str, fields: dict[str, Any]) -> None:
    """TRL's rule: its tokens leave the mask, its row stays. So loss and gradient are those of a batch without them."""
    masking = preset(name, **{**fields, "mask_truncated": True})
    for seed in range(3):
        batch = make_batch(seed, spread=0.6)
        is_truncated = torch.arange(12) % 3 == seed
        emptied = batch.rows(slice(None))
        emptied = Batch(**{**vars(emptied), "mask_NT": batch.mask_NT & ~is_truncated.unsqueeze(1)})
        spoilt = Batch(**{**vars(batch), "ref_NT": batch.ref_NT.masked_fill(is_truncated.unsqueeze(1), float("nan"))})
        expected = loss_and_gradient(masking, emptied, None)
        found = loss_and_gradient(masking, spoilt, is_truncated)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        assert float(expected[1].abs().max()) > 0


def loss_and_gradient(objective: Objective, batch: Batch, is_truncated_N: Tensor | None) -> tuple[Tensor, Tensor]:
    """Summed over two micro-batches that share the weights of the step."""
    weights = weights_of(objective, batch, is_truncated_N=is_truncated_N)
    logprob_NT = batch.logprob_NT.clone().requires_grad_()
    parts = []
    for rows in (slice(0, 5), slice(5, 12)):
        part = batch.rows(rows)
        keywords = {**arguments(part), "step_weights": weights[rows]}
        parts.append(policy_loss(objective, logprob_NT[rows], part.mask_NT, part.advantage_N, **keywords)[0])
    loss = torch.stack(parts).sum()
    (gradient,) = torch.autograd.grad(loss, logprob_NT)
    return loss.detach(), gradient
