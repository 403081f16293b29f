"""The reward for the right answer, letter for letter: 1 or 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from groupwise.errors import quoted
from groupwise.rewards.answer_reward import TextAnswer, Verdict
from groupwise.rewards.match import without_punctuation


@dataclass(frozen=True)
class ExactMatch(TextAnswer):
    """1 where the completion equals the text of its problem's `column`, or one of a list of them; otherwise 0.

    With `tag`, only the text inside the last `<tag>...</tag>` is compared, and a completion without one gets 0. A
    problem without an answer is unscored.
    """

    __name__: ClassVar[str] = "exact_match"

    strip: bool = True
    """Ignore white space at both ends."""
    ignore_case: bool = False
    ignore_punctuation: bool = False
    tag: str | None = None

    def compare(self, given: str, golds: Sequence[str], answer: Any) -> Verdict:
        is_right = self._normal(given) in [self._normal(each) for each in golds]
        return float(is_right), f"{quoted(given, 60)} {'is' if is_right else 'is not'} {quoted(str(answer), 60)}"

    def _normal(self, text: str) -> str:
        text = without_punctuation(text) if self.ignore_punctuation else text
        text = text.strip() if self.strip else text
        return text.casefold() if self.ignore_case else text
