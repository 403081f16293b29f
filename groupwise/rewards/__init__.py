"""How completions are judged: callables, shipped rewards and reward models behind one signature.

`judge.py` is the place to start; `function.py` says what a reward function is, `resolve.py` where it may come from.
"""

from __future__ import annotations

from groupwise.chat import completion_text
from groupwise.rewards.exact_match import ExactMatch
from groupwise.rewards.format import Format
from groupwise.rewards.function import RewardFunction
from groupwise.rewards.judge import Judge, Judged
from groupwise.rewards.length import Length
from groupwise.rewards.resolve import resolve_rewards
from groupwise.rewards.shipped import SHIPPED

__all__ = [
    "SHIPPED",
    "ExactMatch",
    "Format",
    "Judge",
    "Judged",
    "Length",
    "RewardFunction",
    "RewardModel",
    "completion_text",
    "resolve_rewards",
]


def __getattr__(name: str) -> object:
    """`RewardModel` brings torch with it: imported when it is asked for."""
    if name == "RewardModel":
        from groupwise.rewards.model import RewardModel

        return RewardModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
