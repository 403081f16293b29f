"""TRL 1.16's own loss on the same tensors. Runs where TRL is installed; it is not a dependency.

Where the two differ on purpose the difference is asserted, and `docs/algorithm.md` explains it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from groupwise.algo import Objective

from .batches import Batch, loss_of, make_batch, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("trl", minversion="1.16")


def trl_loss(batch: Batch, loss_type: str, **settings: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    """(loss, gradient, metrics) of `GRPOTrainer._compute_loss` with a stand-in for everything that is not the loss."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    logprob_NT = batch.logprob_NT.clone().requires_grad_()
    identity = SimpleNamespace(
        num_processes=1,
        gather=lambda x: x,
        reduce=lambda x, reduction: x,
        pad_across_processes=lambda x, **_: x,
        sync_gradients=True,
    )
    args = {
        "delta": None,
        "use_bias_correction_kl": True,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "vespo_k_pos": 2.0,
        "vespo_lambda_pos": 3.0,
        "vespo_k_neg": 3.0,
        "vespo_lambda_neg": 2.0,
        "steps_per_generation": 1,
        "entropy_target": 0.2,
    }
    fields = {
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "importance_sampling_level": "token",
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "vllm_importance_sampling_correction": False,
        "max_completion_length": 7,
        "entropy_coef": 0.0,
    }
    own = {name: settings.pop(name) for name in list(settings) if name in fields}
    ratio_NT = settings.pop("importance_sampling_ratio", None)
    trainer = SimpleNamespace(
        **{**fields, **own},
        args=SimpleNamespace(**{**args, **settings}),
        loss_type=loss_type,
        accelerator=identity,
        aux_loss_enabled=False,
        use_adaptive_entropy=False,
        _entropy_bonus_enabled=bool(own.get("entropy_coef")),
        current_gradient_accumulation_steps=1,
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprob_NT, batch.entropy_NT, None),
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
    )
    trainer.get_high_entropy_mask = lambda *inputs: GRPOTrainer.get_high_entropy_mask(trainer, *inputs)
    ids = torch.zeros(batch.mask_NT.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1] + 1,
        "completion_ids": ids,
        "completion_mask": batch.mask_NT.long(),
        "advantages": batch.advantage_N,
        "old_per_token_logps": batch.old_NT,
        "ref_per_token_logps": batch.ref_NT,
        "sampling_per_token_logps": batch.rollout_NT,
        "num_items_in_batch": batch.mask_NT.sum(),
    }
    if ratio_NT is not None:
        trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
        inputs["importance_sampling_ratio"] = ratio_NT
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    assert logprob_NT.grad is not None
    return loss.detach(), logprob_NT.grad, {key: values[0] for key, values in trainer._metrics["train"].items()}


def assert_same(objective: Objective, batch: Batch, loss_type: str, tolerance: float = 1e-12, **settings: Any) -> None:
    loss, gradient, stats = loss_of(objective, batch)
    theirs, their_gradient, metrics = trl_loss(batch, loss_type, **settings)
    torch.testing.assert_close(loss, theirs, rtol=0, atol=tolerance)
    torch.testing.assert_close(gradient, their_gradient, rtol=0, atol=tolerance)
    for key in ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"):
        if key in metrics and objective.delta is None and objective.level == "token":
            assert stats.floats()[key] == pytest.approx(metrics[key], abs=1e-6)


SEQUENCE = {"importance_sampling_level": "sequence"}
SAME: list[tuple[str, Objective, dict[str, Any]]] = [
    ("grpo", Objective(beta=0), {}),
    ("grpo", Objective(), {"beta": 0.04, "use_bias_correction_kl": False}),
    ("grpo", Objective(kl="k3_corrected"), {"beta": 0.04}),
    ("grpo", Objective(beta=0, delta=1.5), {"delta": 1.5}),
    ("grpo", Objective.preset("gspo"), {**SEQUENCE, "epsilon_low": 3e-4, "epsilon_high": 4e-4}),
    ("grpo", Objective.preset("dsv32", beta=0.0), {"off_policy_mask_threshold": 0.5}),
    ("bnpo", Objective.preset("bnpo"), {}),
    ("dr_grpo", Objective.preset("dr_grpo", max_length=7), {}),
    ("dapo", Objective.preset("dapo"), {"epsilon_high": 0.28}),
    ("dapo", Objective.preset("entropy_8020"), {"epsilon_high": 0.28, "top_entropy_quantile": 0.2}),
    ("dapo", Objective.preset("dapo", entropy_coef=0.1), {"epsilon_high": 0.28, "entropy_coef": 0.1}),
    ("cispo", Objective.preset("cispo"), {"epsilon_high": 5.0}),
    ("luspo", Objective.preset("luspo"), {**SEQUENCE, "epsilon_low": 2e-3, "epsilon_high": 2.5e-3}),
    ("vespo", Objective.preset("vespo", mismatch="none"), {}),
]


@pytest.mark.parametrize(("loss_type", "objective", "settings"), SAME)
def test_agreement(loss_type: str, objective: Objective, settings: dict[str, Any]) -> None:
    for seed in range(3):
        assert_same(objective, make_batch(seed, spread=0.6), loss_type, **settings)


@pytest.mark.parametrize(("loss_type", "objective", "settings"), [*SAME, ("sapo", Objective.preset("sapo"), {})])
@pytest.mark.parametrize("cut", [range(0, 12, 3), range(4, 8), range(12)], ids=["some", "a group", "all"])
def test_truncated_completions_weigh_the_same(
    loss_type: str, objective: Objective, settings: dict[str, Any], cut: range
) -> None:
    """`mask_truncated_completions`: TRL empties the mask of these rows before its loss sees them."""
    batch = make_batch(5, spread=0.6)
    is_truncated_N = torch.tensor([row in cut for row in range(12)])
    emptied = replace(batch, mask_NT=batch.mask_NT & ~is_truncated_N.unsqueeze(1))
    theirs, their_gradient, _ = trl_loss(emptied, loss_type, **settings)
    masking = replace(objective, mask_truncated=True)
    weights = weights_of(masking, batch, is_truncated_N=is_truncated_N)
    loss, gradient, _ = loss_of(masking, batch, step_weights=weights)
    tolerance = 1e-7 if loss_type == "sapo" else 1e-12
    torch.testing.assert_close(loss, theirs, rtol=0, atol=tolerance)
    torch.testing.assert_close(gradient, their_gradient, rtol=0, atol=tolerance)
    assert (float(theirs) == 0) == (len(cut) == 12)


def test_sapo_agrees_to_the_float32_of_their_temperature() -> None:
    assert_same(Objective.preset("sapo"), make_batch(0), "sapo", tolerance=1e-7)


@pytest.mark.parametrize("loss_type", ["dapo", "vespo"])
def test_mismatch_weights_agree(loss_type: str) -> None:
    batch = make_batch(1)
    ratio_NT = (batch.old_NT - batch.rollout_NT).exp().clamp(max=1.3)
    objective = Objective.preset(loss_type, epsilon_high=0.2, mismatch="token_truncate", mismatch_max=1.3)
    assert_same(objective, batch, loss_type, importance_sampling_ratio=ratio_NT)


def test_the_kl_of_a_sequence_ratio_differs_on_purpose() -> None:
    """They multiply k3 by the sequence ratio; the estimator is right only with the token's own."""
    batch = make_batch(2)
    objective = Objective.preset("gspo", epsilon_low=0.2, epsilon_high=0.2, beta=0.04)
    loss, _, _ = loss_of(objective, batch)
    theirs, _, _ = trl_loss(batch, "grpo", beta=0.04, **SEQUENCE)
    assert abs(float(loss - theirs)) > 1e-6


def test_the_entropy_bonus_under_a_top_entropy_mask_differs_on_purpose() -> None:
    """Theirs is the mean over the kept tokens, ours over all loss tokens."""
    batch = make_batch(2)
    objective = Objective.preset("dapo", epsilon_high=0.2, top_entropy=0.2, entropy_coef=0.1)
    loss, _, _ = loss_of(objective, batch)
    theirs, _, _ = trl_loss(batch, "dapo", top_entropy_quantile=0.2, entropy_coef=0.1)
    assert abs(float(loss - theirs)) > 1e-3
