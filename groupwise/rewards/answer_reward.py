"""Rewards with their reasons, and the base of those that compare a completion with its problem's answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from groupwise.chat import CompletionValue, completion_text
from groupwise.rewards.parameters import ask_for_columns

Verdict = tuple[float | None, str | None]
"""The reward (None: unscored) and the reason for it: in a few words, what was read in the completion."""

LogWhy = Callable[[Sequence[str | None]], None]
"""The keyword `log_why` of a reward function."""

NO_ANSWER: Verdict = (None, "no answer in the data")


def split_reasons(verdicts: Iterable[Verdict], log_why: LogWhy | None) -> list[float | None]:
    """The rewards alone; the reasons are passed to `log_why`, if given."""
    listed = list(verdicts)
    if log_why is not None:
        log_why([why for _, why in listed])
    return [value for value, _ in listed]


@dataclass(frozen=True)
class AnswerReward:
    """Scores each completion on its own against the answer in `column` of its problem."""

    __name__: ClassVar[str]

    column: str = "answer"

    def __post_init__(self) -> None:
        ask_for_columns(self, self.__name__, self.columns)

    @property
    def columns(self) -> list[str]:
        """The columns whose values `verdict` takes, that of the answer first."""
        return [self.column]

    def verdict(self, text: str, answer: Any) -> Verdict:
        """The reward of one completion."""
        raise NotImplementedError

    def __call__(
        self, completions: Sequence[CompletionValue], log_why: LogWhy | None = None, **columns: Sequence[Any]
    ) -> list[float | None]:
        rows = zip(map(completion_text, completions), *(columns[name] for name in self.columns), strict=True)
        return split_reasons((self.verdict(*row) for row in rows), log_why)
