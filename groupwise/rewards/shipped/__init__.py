"""The rewards that come with groupwise, by the name a recipe calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from groupwise.errors import ConfigError, did_you_mean
from groupwise.rewards.llm.llm_judge import LlmJudge
from groupwise.rewards.shipped.choice import Choice
from groupwise.rewards.shipped.code import Code
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

SHIPPED: Mapping[str, type[Any]] = {
    "length": Length,
    "format": Format,
    "exact_match": ExactMatch,
    "math": MathAccuracy,
    "number": Number,
    "code": Code,
    "choice": Choice,
    "fuzzy_match": FuzzyMatch,
    "tag_count": TagCount,
    "r1_format": R1Format,
    "language": Language,
    "answer_consistency": AnswerConsistency,
    "repetition": Repetition,
    "cosine_length": CosineLength,
    "reasoning_steps": ReasoningSteps,
    "regex": Regex,
    "json_schema": JsonSchema,
    "rouge": Rouge,
    "llm_judge": LlmJudge,
}


def build_shipped(name: str, parameters: Mapping[str, Any]) -> Callable[..., list[float | None]]:
    """The shipped reward `name` with these parameters; one that it does not have, or lacks, is an error."""
    known = {each.name: each.default is MISSING and each.default_factory is MISSING for each in fields(SHIPPED[name])}
    for parameter in parameters:
        if parameter not in known:
            raise ConfigError(
                f'Reward {name} has no parameter "{parameter}"; it has {", ".join(known)}, and weight.'
                f"{did_you_mean(str(parameter), [*known, 'weight'])}"
            )
    missing = [parameter for parameter, is_needed in known.items() if is_needed and parameter not in parameters]
    if missing:
        raise ConfigError(f"Reward {name} needs {missing[0]}: {{name: {name}, {missing[0]}: ...}}.")
    reward: Callable[..., list[float | None]] = SHIPPED[name](**parameters)
    return reward
