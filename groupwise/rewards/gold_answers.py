"""Finds the column with the right answers of a data set, and compares its texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from groupwise.chat import content_text
from groupwise.rewards.function import RewardFunction
from groupwise.rewards.gold import is_missing
from groupwise.rewards.isolated import Isolated
from groupwise.types import SAMPLED_KEYWORDS, Problem, Prompt

AnswerOf = Callable[[Problem], str | None]
"""The right answer of a problem as text; None for a problem without one."""

USUAL_NAMES = (
    "answer", "solution", "gold", "target", "label", "ground_truth", "reference", "expected", "final_answer",
    "answers", "summary",
)  # fmt: skip
"""What data sets call the right answer, the most telling first."""
MOST_COLUMNS = 4
"""Columns that are tried as right answers where no name gives them away."""
MOST_LABELS, LABEL_WORDS = 20, 3
"""Answers that are one of at most so many, of at most so many words each, are labels."""


def is_of_user(function: RewardFunction) -> bool:
    """Whether it is a function of the user's, perhaps in a process of its own."""
    return not function.is_shipped or isinstance(function.call, Isolated)


def columns_read(function: RewardFunction) -> set[str]:
    """Columns that a reward function is known to read: its parameters, and the value of its `column`."""
    column = getattr(function.call, "column", None)
    named = {name for name in function.required if name not in SAMPLED_KEYWORDS}
    return named | ({column} if isinstance(column, str) else set())


def gold_column(columns: Collection[str], functions: Sequence[RewardFunction]) -> str | None:
    """The column of right answers: one that a reward reads or accepts, of a usual name first; else the only one that
    functions of the user's name. None without one."""
    usual = usual_gold_column(columns, functions)
    named = named_columns(columns, functions)
    return named[0] if usual is None and len(named) == 1 else usual


def usual_gold_column(columns: Collection[str], functions: Sequence[RewardFunction]) -> str | None:
    """The column of right answers that a shipped reward compares with, or that is called as such columns are."""
    declared = [answer_column(function) for function in functions]
    accepted = [name for name in USUAL_NAMES if any(name in f.accepted for f in functions)]
    usual = [name for name in USUAL_NAMES if any(f.takes_all_columns for f in functions)]
    return next((name for name in [*declared, *accepted, *usual] if name in columns), None)


def named_columns(columns: Collection[str], functions: Sequence[RewardFunction]) -> list[str]:
    """The columns that functions of the user's have a parameter for."""
    return [name for name in columns if any(is_of_user(f) and name in f.accepted for f in functions)]


def possible_gold_columns(columns: Collection[str], functions: Sequence[RewardFunction]) -> list[str]:
    """Columns that may hold the right answers beside the usual one, which a function of the user's can read."""
    usual = usual_gold_column(columns, functions)
    if usual is not None and any(usual in f.accepted or usual == answer_column(f) for f in functions):
        return []
    takes_all = any(is_of_user(f) and f.takes_all_columns for f in functions)
    found = dict.fromkeys([*named_columns(columns, functions), *(columns if takes_all else ())])
    return [name for name in found if name != usual][:MOST_COLUMNS]


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


def golds(problems: Iterable[Problem], column: str) -> Iterator[tuple[Problem, str]]:
    """The problems that have an answer in this column, with it."""
    for problem in problems:
        text = gold_text(problem.columns.get(column))
        if text is not None:
            yield problem, text


def labels_of(answers: Sequence[str]) -> list[str]:
    """The different answers, the most frequent first, where each is one of a few short words; else none."""
    counts = Counter(answers)
    is_choice = 2 <= len(counts) <= MOST_LABELS and 2 * len(counts) <= len(answers)
    are_words = all(len(text.split()) <= LABEL_WORDS and not re.search(r"\d", text) for text in counts)
    return [text for text, _ in counts.most_common()] if is_choice and are_words else []


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
