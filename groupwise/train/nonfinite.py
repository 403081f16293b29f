"""Detects loss or gradients that are not finite: a NaN that reaches a weight stays there."""

from __future__ import annotations

import math
from collections.abc import Callable

from groupwise.train.batch import Batch

OddGradients = Callable[[], tuple[list[str], int]]
"""Names of the weights whose gradient is not finite, and how many weights have a gradient."""


def why_not_finite(loss: float, norm: float, odd_gradients: OddGradients, batch: Batch) -> str | None:
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
    odd, num_trained = odd_gradients()
    if not odd:
        return f"the gradient's norm is {norm}"
    return f"the gradient of {odd[0]} is not finite ({len(odd)} of {num_trained} weights)"
