"""The policy: the model being trained, with its tokenizer, its passes and its end tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from groupwise.policy.policy_model import PolicyModel


@dataclass(frozen=True)
class PolicyBundle:
    """The model being trained and what belongs to it."""

    model: nn.Module
    name: str
    tokenizer: Any
    policy_model: PolicyModel
    stop_ids: tuple[int, ...]
    """End tokens of the model and of the recipe."""
