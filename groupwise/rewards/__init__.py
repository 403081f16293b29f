"""How completions are judged: callables, shipped rewards and reward models behind one signature.

`scorer.py` is the place to start; `function.py` says what a reward function is, `resolve.py` where it may come from.
"""

from __future__ import annotations

from groupwise.chat import completion_text
from groupwise.rewards.function import RewardFunction
from groupwise.rewards.llm.llm_judge import LlmJudge
from groupwise.rewards.resolve import resolve_rewards
from groupwise.rewards.scorer import RewardScorer, ScoredGroups
from groupwise.rewards.shaping_rules import Shaping
from groupwise.rewards.shipped import SHIPPED
from groupwise.rewards.shipped.choice import Choice
from groupwise.rewards.shipped.consistency import AnswerConsistency
from groupwise.rewards.shipped.cosine_length import CosineLength
from groupwise.rewards.shipped.exact_match import ExactMatch
from groupwise.rewards.shipped.format import Format
from groupwise.rewards.shipped.fuzzy_match import FuzzyMatch
from groupwise.rewards.shipped.json_schema import JsonSchema
from groupwise.rewards.shipped.language import Language
from groupwise.rewards.shipped.length import Length
from groupwise.rewards.shipped.math_accuracy import MathAccuracy
from groupwise.rewards.shipped.number import Number
from groupwise.rewards.shipped.r1_format import R1Format
from groupwise.rewards.shipped.reasoning_steps import ReasoningSteps
from groupwise.rewards.shipped.regex import Regex
from groupwise.rewards.shipped.repetition import Repetition
from groupwise.rewards.shipped.rouge import Rouge
from groupwise.rewards.shipped.tag_count import TagCount

__all__ = [
    "SHIPPED",
    "AnswerConsistency",
    "Choice",
    "CosineLength",
    "ExactMatch",
    "Format",
    "FuzzyMatch",
    "JsonSchema",
    "RewardScorer",
    "ScoredGroups",
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
