"""The reward for an answer that agrees with the reasoning before it: 1 or 0, right or wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from groupwise.chat import CompletionValue, completion_text
from groupwise.rewards.answer_reward import LogWhy, Verdict, split_reasons
from groupwise.rewards.extract import after_phrase, boxed, last_number, numbers, tagged, the_number
from groupwise.rewards.match import plain_words
from groupwise.rewards.parameters import check_number, check_tag

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_STATED = re.compile(
    r"(?:answer|result|total|sum|product|difference)\b[^.\n=]*?\b(?:is|are|equals|be)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class AnswerConsistency:
    """1 where the value that the reasoning ends in equals the one in the answer tag, otherwise 0.

    The reasoning is the last `<think>...</think>`, or all text before the answer tag. It ends in a box, in what
    it states as its answer, or in its last number. An answer in words must be in the last sentence of the reasoning.
    No reasoning, or no answer, is 0.
    """

    __name__: ClassVar[str] = "answer_consistency"
    highest: ClassVar[float] = 1.0

    answer_tag: str = "answer"
    reasoning_tag: str = "think"
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        check_tag("answer_consistency", self.answer_tag, "answer_tag")
        check_tag("answer_consistency", self.reasoning_tag, "reasoning_tag")
        check_number("answer_consistency", "tolerance", self.tolerance, least=0)

    def __call__(self, completions: Sequence[CompletionValue], log_why: LogWhy | None = None) -> list[float | None]:
        return split_reasons((self._verdict(completion_text(completion)) for completion in completions), log_why)

    def _verdict(self, text: str) -> Verdict:
        answer = tagged(text, self.answer_tag)
        if answer is None or not answer.strip():
            return 0.0, f"no <{self.answer_tag}>" if answer is None else "an empty answer"
        reasoning = self._reasoning(text)
        if not reasoning.strip():
            return 0.0, "no reasoning"
        if not list(numbers(answer)):
            return _stands_at_the_end(answer, reasoning)
        given, reached = the_number(answer), conclusion(reasoning)
        if given is None or reached is None:
            return 0.0, "several numbers in the answer" if given is None else "no number in the reasoning"
        is_same = math.isclose(given, reached, rel_tol=1e-9, abs_tol=self.tolerance)
        return float(is_same), f"reasoning ends in {reached}, answer is {given}"

    def _reasoning(self, text: str) -> str:
        before = text.rpartition(f"<{self.answer_tag}>")[0]
        inside = tagged(before, self.reasoning_tag)
        return before.replace(f"<{self.reasoning_tag}>", " ") if inside is None else inside


def conclusion(reasoning: str) -> int | float | None:
    """The number that a reasoning ends in.

    In its last two sentences with a number: a box, then what is stated as the answer, then what follows an "=";
    otherwise the last number of all.
    """
    sentences = [each for each in _SENTENCE.split(reasoning) if any(True for _ in numbers(each))]
    for sentence in reversed(sentences[-2:]):
        if (inside := boxed(sentence)) is not None:
            return the_number(inside)
        stated = list(_STATED.finditer(sentence))
        rest = sentence[stated[-1].end() :] if stated else after_phrase(sentence) or ""
        rest = rest or sentence.rpartition("=")[2] * ("=" in sentence)
        if (value := next(numbers(rest.rpartition("=")[2]), None)) is not None:
            return value
    return last_number(reasoning)


def _stands_at_the_end(answer: str, reasoning: str) -> Verdict:
    sentences = [each for each in _SENTENCE.split(reasoning) if each.strip()]
    words, last = plain_words(answer) or answer.split(), plain_words(sentences[-1])
    is_there = any(last[start : start + len(words)] == words for start in range(len(last)))
    return float(is_there), f"{answer.strip()[:40]!r} {'stands' if is_there else 'does not stand'} in the last sentence"
