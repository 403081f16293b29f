"""The reward for an answer near the right one: how near, or 1 and 0 at a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from groupwise.rewards.answer_reward import TextAnswer, Verdict
from groupwise.rewards.match import similarity, word_f1
from groupwise.rewards.parameters import check_number, check_word

MEASURES = {"characters": similarity, "words": word_f1}


@dataclass(frozen=True)
class FuzzyMatch(TextAnswer):
    """Nearness of a completion to the answer, 0 to 1, the best of several; without an answer None.

    Case, punctuation, articles and white space do not count. With `tag`, the text inside the last `<tag>...</tag>` is
    compared, and a completion without one gets 0.
    """

    __name__: ClassVar[str] = "fuzzy_match"

    measure: Literal["characters", "words"] = "words"
    threshold: float | None = None
    tag: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_word("fuzzy_match", "measure", self.measure, tuple(MEASURES))
        if self.threshold is not None:
            check_number("fuzzy_match", "threshold", self.threshold, least=0, most=1)

    def compare(self, given: str, golds: Sequence[str], answer: Any) -> Verdict:
        near, gold = max((MEASURES[self.measure](given, each), each) for each in golds)
        why = f"{near:.2f} like {gold[:60]!r}"
        return (near, why) if self.threshold is None else (float(near >= self.threshold), why)
