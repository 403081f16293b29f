"""A loss of the user's own in the place of `groupwise.algo.policy_loss`, with the same arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from groupwise.algo import policy_loss
from groupwise.algo.stats import Stats, Sum
from groupwise.errors import TrainingError

Loss = Callable[..., tuple[Tensor, Stats]]


def with_measurements(own: Callable[..., Any]) -> Loss:
    """The user's loss with the measurements of the objective: KL, clip ratios, entropy.

    It is called with the rows of one micro-batch, and its values are added up: to be the same however the step is cut
    it has to be a sum over tokens weighted by `step_weights.weight_NT`, counted over the whole optimizer step.

    Raises:
        TrainingError: it returns something else than one number with a gradient.
    """

    def loss(*args: Any, **kwargs: Any) -> tuple[Tensor, Stats]:
        found = own(*args, **kwargs)
        found = found[0] if isinstance(found, tuple) else found
        if not isinstance(found, Tensor) or found.numel() != 1 or not found.requires_grad:
            raise TrainingError(
                f"policy_loss returned {found!r}; expected a tensor of one number with a gradient, such as "
                "-(step_weights.weight_NT * advantages[:, None] * logprob_NT).sum()."
            )
        with torch.no_grad():
            stats = policy_loss(*args, **kwargs)[1]
        for term in ("kl_loss", "entropy_loss"):  # of the objective's loss, which is not minimised
            stats.pop(term, None)
        total = Sum(found.detach().reshape(()))
        return found.reshape(()), Stats({**stats, "loss": total, "policy_loss": total})

    return loss
