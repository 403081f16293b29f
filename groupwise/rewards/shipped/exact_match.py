"""The reward for the right answer, letter for letter: 1 or 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from groupwise.errors import quoted
from groupwise.rewards.answer_reward import NO_ANSWER, AnswerReward, Verdict
from groupwise.rewards.extract import tagged
from groupwise.rewards.match import accepted, without_punctuation
from groupwise.rewards.parameters import check_tag


@dataclass(frozen=True)
class ExactMatch(AnswerReward):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tag is not None:
            check_tag("exact_match", self.tag)

    def verdict(self, text: str, answer: Any) -> Verdict:
        golds = accepted(answer)
        if not golds:
            return NO_ANSWER
        given = text if self.tag is None else tagged(text, self.tag)
        if given is None:
            return 0.0, f"no <{self.tag}>"
        is_right = self._normal(given) in [self._normal(each) for each in golds]
        return float(is_right), f"{quoted(given, 60)} {'is' if is_right else 'is not'} {quoted(str(answer), 60)}"

    def _normal(self, text: str) -> str:
        text = without_punctuation(text) if self.ignore_punctuation else text
        text = text.strip() if self.strip else text
        return text.casefold() if self.ignore_case else text
