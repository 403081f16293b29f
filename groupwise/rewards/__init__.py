"""How completions are judged: callables, shipped rewards and reward models behind one signature.

`judge.py` is the place to start; `function.py` says what a reward function is, `resolve.py` where it may come from.
"""

from __future__ import annotations

from groupwise.chat import completion_text
from groupwise.rewards.choice import Choice
from groupwise.rewards.consistency import AnswerConsistency
from groupwise.rewards.cosine_length import CosineLength
from groupwise.rewards.exact_match import ExactMatch
from groupwise.rewards.format import Format
from groupwise.rewards.function import RewardFunction
from groupwise.rewards.fuzzy_match import FuzzyMatch
from groupwise.rewards.json_schema import JsonSchema
from groupwise.rewards.judge import Judge, Judged
from groupwise.rewards.language import Language
from groupwise.rewards.length import Length
from groupwise.rewards.llm_judge import LlmJudge
from groupwise.rewards.math_accuracy import MathAccuracy
from groupwise.rewards.number import Number
from groupwise.rewards.r1_format import R1Format
from groupwise.rewards.reasoning_steps import ReasoningSteps
from groupwise.rewards.regex import Regex
from groupwise.rewards.repetition import Repetition
from groupwise.rewards.resolve import resolve_rewards
from groupwise.rewards.rouge import Rouge
from groupwise.rewards.shaping import Shaping
from groupwise.rewards.shipped import SHIPPED
from groupwise.rewards.tag_count import TagCount

__all__ = [
    "SHIPPED",
    "AnswerConsistency",
    "Choice",
    "CosineLength",
    "ExactMatch",
    "Format",
    "FuzzyMatch",
    "JsonSchema",
    "Judge",
    "Judged",
    "Language",
    "Length",
    "LlmJudge",
    "MathAccuracy",
    "Number",
    "R1Format",
    "ReasoningSteps",
    "Regex",
    "Repetition",
    "RewardFunction",
    "RewardModel",
    "Rouge",
    "Shaping",
    "TagCount",
    "completion_text",
    "resolve_rewards",
]


def __getattr__(name: str) -> object:
    """`RewardModel` brings torch with it: imported when it is asked for."""
    if name == "RewardModel":
        from groupwise.rewards.model import RewardModel

        return RewardModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
