"""Whether an optimizer step may be taken: a single NaN in a weight is never mended by the steps after it."""

from __future__ import annotations

import math

from torch import nn


def why_not_finite(loss: float, norm: float, model: nn.Module) -> str | None:
    """None when loss and gradient norm are finite; else what is not, by the name of the first weight concerned."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if math.isfinite(norm):
        return None
    trained = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    odd = [name for name, grad in trained.items() if not bool(grad.isfinite().all())]
    if not odd:
        return f"the gradient's norm is {norm}"
    return f"the gradient of {odd[0]} is not finite ({len(odd)} of {len(trained)} weights)"
