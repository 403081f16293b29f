"""Reward functions: callables, shipped rewards and reward models behind one signature.

`scorer.py` is the place to start: it scores groups. `function.py` defines a reward function, `resolve.py` finds one
by what a recipe names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from groupwise.rewards.shipped import HOMES, SHIPPED

if TYPE_CHECKING:
    from groupwise.chat import completion_text as completion_text
    from groupwise.rewards.function import RewardFunction as RewardFunction
    from groupwise.rewards.model import RewardModel as RewardModel
    from groupwise.rewards.resolve import resolve_rewards as resolve_rewards
    from groupwise.rewards.scorer import RewardScorer as RewardScorer
    from groupwise.rewards.scorer import ScoredGroups as ScoredGroups
    from groupwise.rewards.shaping_rules import Shaping as Shaping

_HOMES = {
    "completion_text": "groupwise.chat",
    "RewardFunction": "groupwise.rewards.function",
    "RewardModel": "groupwise.rewards.model",
    "resolve_rewards": "groupwise.rewards.resolve",
    "RewardScorer": "groupwise.rewards.scorer",
    "ScoredGroups": "groupwise.rewards.scorer",
    "Shaping": "groupwise.rewards.shaping_rules",
    **HOMES,
}
"""Public name -> its module, imported on first use: a configuration reads the rules of rewards and loads none."""

TRLS = {
    "accuracy_reward": 'reward_funcs=["math"]',
    "reasoning_accuracy_reward": "groupwise.rewards.MathAccuracy(tag=...)",
    "think_format_reward": 'reward_funcs=["format"]',
    "get_soft_overlong_punishment": "GRPOConfig(overlong_cache=...)",
    "get_cosine_scaled_reward": "groupwise.rewards.CosineLength(max_length=...)",
    "get_repetition_penalty_reward": "groupwise.rewards.Repetition(ngram=...)",
}
"""Reward in `trl.rewards` -> the nearest one here, which is not the same function."""

__all__ = [*_HOMES, "SHIPPED"]


def __getattr__(name: str) -> Any:
    if name in TRLS:
        raise ImportError(f"{name} is TRL's: from groupwise.trl.rewards import {name}, or use {TRLS[name]}.")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
