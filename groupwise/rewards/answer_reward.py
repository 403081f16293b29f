"""Rewards with their reasons, and the base of those that compare a completion with its problem's answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from groupwise.chat import CompletionValue, completion_text
from groupwise.rewards.extract import tagged
from groupwise.rewards.match import accepted
from groupwise.rewards.parameters import ask_for_columns, check_tag

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
    highest: ClassVar[float] = 1.0
    """The most that a verdict gives."""

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


class TextAnswer(AnswerReward):
    """Compares a text, or the part of it inside the last `<tag>...</tag>`, with the accepted answers."""

    tag: str | None
    """Of the reward's own settings; a completion without the tag gets 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tag is not None:
            check_tag(self.__name__, self.tag)

    def verdict(self, text: str, answer: Any) -> Verdict:
        golds = accepted(answer)
        if not golds:
            return NO_ANSWER
        given = text if self.tag is None else tagged(text, self.tag)
        return (0.0, f"no <{self.tag}>") if given is None else self.compare(given, golds, answer)

    def compare(self, given: str, golds: Sequence[str], answer: Any) -> Verdict:
        """The reward of what was given, against the texts that `answer` accepts."""
        raise NotImplementedError
