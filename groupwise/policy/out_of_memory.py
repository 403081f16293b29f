"""What follows when a GPU's memory runs out in the middle of a run: less at a time, once."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from groupwise.errors import TrainingError
from groupwise.policy.policy_model import PolicyModel

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def release_memory() -> None:
    """Give back what torch keeps for tensors that are gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def with_smaller_passes(policy_model: PolicyModel, work: Callable[[], _Result], *, may_repeat: bool) -> _Result:
    """What `work` returns; it passes over tokens and can be done again from its start.

    Where memory runs out the passes of the rest of the run hold half the tokens, and the work is repeated: its result
    does not depend on how tokens are cut into passes. Several ranks cannot repeat (`may_repeat`): the others are
    waiting at a later place.

    Raises:
        TrainingError: memory has run out again, or the work cannot be repeated.
    """
    try:
        return work()
    except torch.OutOfMemoryError as error:
        reason = str(error).strip().split("\n")[0]
        if policy_model.limits.is_halved or not may_repeat:
            raise TrainingError(
                f"The GPU's memory has run out in a pass of the learner ({reason}) Set a smaller micro_batch_tokens, "
                "or gradient_checkpointing: true."
            ) from error
    policy_model.limits = policy_model.limits.halved()  # outside of the handler, which holds the tensors of the pass
    release_memory()
    _log.warning(f"The GPU's memory ran out ({reason}) From now on a pass holds half as many tokens.")
    return with_smaller_passes(policy_model, work, may_repeat=may_repeat)
