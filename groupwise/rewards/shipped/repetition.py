"""The penalty for repetition: the share of n-grams that occurred before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from groupwise.chat import CompletionValue, completion_text
from groupwise.rewards.parameters import check_count, check_number

LONG_WORD = 15
"""A text whose words are longer than this on average has no spaces between them."""


@dataclass(frozen=True)
class Repetition:
    """penalty x (1 - different n-grams / all n-grams), over lower-case words; 0 for a text shorter than n words.

    From "Demystifying Long Chain-of-Thought Reasoning" (2502.03373), which spreads the same quantity over tokens.
    """

    __name__: ClassVar[str] = "repetition"

    ngram: int = 3
    penalty: float = -1.0

    def __post_init__(self) -> None:
        check_count("repetition", "ngram", self.ngram)
        check_number("repetition", "penalty", self.penalty, most=0)

    def __call__(self, completions: Sequence[CompletionValue]) -> list[float]:
        return [self.penalty * repeated_share(completion_text(c), self.ngram) for c in completions]


def repeated_share(text: str, ngram: int) -> float:
    """The share of the n-grams of words that occurred before, 0 to 1; scripts without spaces go by characters."""
    words = text.casefold().split()
    units: Sequence[str] = (
        words if len(text) <= LONG_WORD * len(words) else [char for char in text if not char.isspace()]
    )
    grams = [tuple(units[start : start + ngram]) for start in range(len(units) - ngram + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
