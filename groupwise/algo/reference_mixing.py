"""Updates of the reference: a copy of the policy, or an exponential mixture with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def mix_reference(reference: Any, policy: Any, alpha: float) -> Any:
    """ref <- alpha policy + (1 - alpha) ref (TR-DPO 2404.09656); alpha 1 is the hard reset of iterative GRPO.

    Takes numbers, tensors or state dicts and returns new ones. Low-rank factors must be multiplied out first: mixing
    the factors is not mixing the weights.
    """
    assert 0 <= alpha <= 1, f"alpha is {alpha}"
    if isinstance(reference, Mapping) and isinstance(policy, Mapping):
        assert reference.keys() == policy.keys()
        return {name: mix_reference(reference[name], policy[name], alpha) for name in reference}
    if isinstance(policy, Tensor):
        policy = policy.detach()
    return alpha * policy + (1 - alpha) * reference
