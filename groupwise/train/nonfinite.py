"""Detects loss or gradients that are not finite: a NaN that reaches a weight stays there."""

from __future__ import annotations

import math

from torch import nn

from groupwise.train.batch import Batch


def why_not_finite(loss: float, norm: float, model: nn.Module, batch: Batch) -> str | None:
    """None when loss and gradient norm are finite; else what is not, by the name of the first weight concerned."""
    if not math.isfinite(loss):
        given = {
            "engine": batch.rollout_logprob_NT,
            "old policy": batch.old_logprob_NT,
            "reference": batch.ref_logprob_NT,
        }
        odd = [
            whose for whose, logprob_NT in given.items() if logprob_NT is not None and not logprob_NT.isfinite().all()
        ]
        return f"the loss is {loss}" + (f" (log-probs of the {odd[0]} are not finite)" if odd else "")
    if math.isfinite(norm):
        return None
    trained = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    odd = [name for name, grad in trained.items() if not bool(grad.isfinite().all())]
    if not odd:
        return f"the gradient's norm is {norm}"
    return f"the gradient of {odd[0]} is not finite ({len(odd)} of {len(trained)} weights)"
