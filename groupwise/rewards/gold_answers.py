"""Finds the column with the right answers of a data set, and compares its texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from groupwise.chat import content_text
from groupwise.rewards.function import RewardFunction
from groupwise.rewards.gold import is_missing
from groupwise.types import SAMPLED_KEYWORDS, Problem, Prompt

AnswerOf = Callable[[Problem], str | None]
"""The right answer of a problem as text; None for a problem without one."""

USUAL_NAMES = (
    "answer", "solution", "gold", "target", "label", "ground_truth", "reference", "expected", "final_answer",
    "answers", "summary",
)  # fmt: skip
"""What data sets call the right answer, the most telling first."""


def columns_read(function: RewardFunction) -> set[str]:
    """Columns that a reward function is known to read: its parameters, and the value of its `column`."""
    column = getattr(function.call, "column", None)
    named = {name for name in function.required if name not in SAMPLED_KEYWORDS}
    return named | ({column} if isinstance(column, str) else set())


def gold_column(columns: Collection[str], functions: Sequence[RewardFunction]) -> str | None:
    """The column of right answers: one that a reward reads or accepts, of a usual name first; None without one."""
    declared = [answer_column(function) for function in functions]
    accepted = [name for name in USUAL_NAMES if any(name in f.accepted for f in functions)]
    usual = [name for name in USUAL_NAMES if any(f.takes_all_columns for f in functions)]
    return next((name for name in [*declared, *accepted, *usual] if name in columns), None)


def answer_column(function: RewardFunction) -> str | None:
    """The column that a shipped reward holds answers against; tests of a program are no answer."""
    column = getattr(function.call, "answer_column", getattr(function.call, "column", None))
    return column if isinstance(column, str) else None


def gold_text(value: Any) -> str | None:
    """An answer as text: the first of a list, what follows "####" as GSM8K writes it; None where there is none."""
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    if is_missing(value) or not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    return str(value).rpartition("####")[2].strip() or None


def answers_in(columns: Collection[str], functions: Sequence[RewardFunction]) -> AnswerOf | None:
    """Finds the right answer of a problem as text; None for data without a column of them."""
    column = gold_column(columns, functions)
    return None if column is None else lambda problem: gold_text(problem.columns.get(column))


def golds(problems: Sequence[Problem], column: str) -> Iterator[tuple[Problem, str]]:
    """The problems that have an answer in this column, with it."""
    for problem in problems:
        text = gold_text(problem.columns.get(column))
        if text is not None:
            yield problem, text


def prompt_words(prompt: Prompt) -> str:
    """The text of a prompt, all its messages together."""
    return prompt if isinstance(prompt, str) else "\n".join(content_text(message["content"]) for message in prompt)


def occurs(answer: str, text: str) -> bool:
    """Whether the answer stands in the text as a word of its own, whatever its case."""
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None


def is_announced(answer: str, text: str) -> bool:
    """Whether the text announces the answer: "answer: 7", "the solution is 7"."""
    word = r"\b(?:answer|solution|result|gold|label|target)\b"
    return re.search(rf"{word}(?:\s+(?:is|was))?\W{{0,12}}{re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None
