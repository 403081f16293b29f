"""The rewards that come with groupwise, by the name that a recipe gives; each is imported on first use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Any

_CLASSES = {
    "length": ("Length", "shipped.length"),
    "format": ("Format", "shipped.format"),
    "exact_match": ("ExactMatch", "shipped.exact_match"),
    "math": ("MathAccuracy", "shipped.math_accuracy"),
    "number": ("Number", "shipped.number"),
    "code": ("Code", "shipped.code"),
    "choice": ("Choice", "shipped.choice"),
    "fuzzy_match": ("FuzzyMatch", "shipped.fuzzy_match"),
    "tag_count": ("TagCount", "shipped.tag_count"),
    "r1_format": ("R1Format", "shipped.r1_format"),
    "language": ("Language", "shipped.language"),
    "answer_consistency": ("AnswerConsistency", "shipped.consistency"),
    "repetition": ("Repetition", "shipped.repetition"),
    "cosine_length": ("CosineLength", "shipped.cosine_length"),
    "reasoning_steps": ("ReasoningSteps", "shipped.reasoning_steps"),
    "regex": ("Regex", "shipped.regex"),
    "json_schema": ("JsonSchema", "shipped.json_schema"),
    "rouge": ("Rouge", "shipped.rouge"),
    "llm_judge": ("LlmJudge", "llm.llm_judge"),
}
"""Name in a recipe -> the class and its module, below `groupwise.rewards`."""

HOMES = {kind: f"groupwise.rewards.{module}" for kind, module in _CLASSES.values()}
"""Class of a shipped reward -> its module."""


class _Shipped(Mapping[str, type[Any]]):
    """Name of a shipped reward -> its class."""

    def __getitem__(self, name: str) -> type[Any]:
        kind, _ = _CLASSES[name]
        found: type[Any] = getattr(import_module(HOMES[kind]), kind)
        return found

    def __contains__(self, name: object) -> bool:
        return name in _CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


SHIPPED: Mapping[str, type[Any]] = _Shipped()


def shipped_parameters(name: str) -> dict[str, bool]:
    """Parameter of a shipped reward -> whether it has no default."""
    return {each.name: each.default is MISSING and each.default_factory is MISSING for each in fields(SHIPPED[name])}
