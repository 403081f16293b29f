"""The reward for the right answer, letter for letter: 1 or 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from groupwise.chat import CompletionValue, completion_text
from groupwise.rewards.extract import tagged
from groupwise.rewards.match import accepted, without_punctuation
from groupwise.rewards.parameters import ask_for_columns, check_tag
from groupwise.rewards.shorten import shortened
from groupwise.rewards.verdict import LogWhy, Verdict, told


@dataclass(frozen=True)
class ExactMatch:
    """1 where the completion equals the text of its problem's `column`, or one of a list of them; otherwise 0.

    With `tag`, only what stands in the last `<tag>...</tag>` is compared, and a completion without one gets 0. A
    problem without an answer is not scored.
    """

    __name__: ClassVar[str] = "exact_match"

    column: str = "answer"
    strip: bool = True
    """Ignore white space at both ends."""
    ignore_case: bool = False
    ignore_punctuation: bool = False
    tag: str | None = None

    def __post_init__(self) -> None:
        if self.tag is not None:
            check_tag("exact_match", self.tag)
        ask_for_columns(self, "exact_match", [self.column])

    def __call__(
        self, completions: Sequence[CompletionValue], log_why: LogWhy | None = None, **columns: Sequence[Any]
    ) -> list[float | None]:
        pairs = zip(completions, columns[self.column], strict=True)
        return told((self._judge(completion_text(completion), answer) for completion, answer in pairs), log_why)

    def _judge(self, text: str, answer: Any) -> Verdict:
        golds = accepted(answer)
        if not golds:
            return None, "no answer in the data"
        given = text if self.tag is None else tagged(text, self.tag)
        if given is None:
            return 0.0, f"no <{self.tag}>"
        is_right = self._normal(given) in [self._normal(each) for each in golds]
        return float(is_right), f"{shortened(given, 60)} {'is' if is_right else 'is not'} {shortened(str(answer), 60)}"

    def _normal(self, text: str) -> str:
        text = without_punctuation(text) if self.ignore_punctuation else text
        text = text.strip() if self.strip else text
        return text.casefold() if self.ignore_case else text
