"""A loss of the user's own in the place of `groupwise.algo.policy_loss`, with the same arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from groupwise.algo.stats import Stats, Sum
from groupwise.errors import TrainingError

_OF_THE_OBJECTIVE = ("kl_loss", "entropy_loss")
"""Terms of the objective's loss, which is not minimised."""


def own_loss(own: Callable[..., Any], stats: Stats, *args: Any, **kwargs: Any) -> tuple[Tensor, Stats]:
    """The user's loss, with the measurements of the objective (KL, clip ratios, entropy) that `stats` has.

    It is called with the rows of one micro-batch, and its values are added up: to be the same however the step is cut
    it has to be a sum over tokens weighted by `step_weights.weight_NT`, counted over the whole optimizer step.

    Raises:
        TrainingError: it returns something else than one number with a gradient.
    """
    found = own(*args, **kwargs)
    found = found[0] if isinstance(found, tuple) else found
    if not isinstance(found, Tensor) or found.numel() != 1 or not found.requires_grad:
        raise TrainingError(
            f"policy_loss returned {found!r}; expected a tensor of one number with a gradient, such as "
            "-(step_weights.weight_NT * advantages[:, None] * logprob_NT).sum()."
        )
    total = Sum(found.detach().reshape(()))
    kept = {name: stat for name, stat in stats.items() if name not in _OF_THE_OBJECTIVE}
    return found.reshape(()), Stats({**kept, "loss": total, "policy_loss": total})
