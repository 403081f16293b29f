"""The GRPO family as pure functions on orthogonal axes; `docs/algorithm.md` maps every formula to its function.

Names resolve on first use: choosing an `Objective` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Objective": "objective",
    "advantages": "advantage",
    "objective_advantages": "advantage",
    "groups_with_signal": "advantage",
    "moving_average": "advantage",
    "process_advantages": "process",
    "gigpo_advantages": "gigpo",
    "reward_to_go": "process",
    "whiten_tokens": "process",
    "StepWeights": "aggregate",
    "step_weights": "aggregate",
    "policy_loss": "loss",
    "kl": "kl_penalty",
    "AdaptiveKL": "kl_penalty",
    "AdaptiveEntropy": "entropy",
    "mix_reference": "reference_mixing",
    "overlong_penalty": "shaping",
    "Stats": "stats",
}
"""Public name -> the module of this package that defines it."""

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'groupwise.algo' has no attribute {name!r}")
    return getattr(import_module(f"groupwise.algo.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
