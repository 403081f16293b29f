"""The reward for an answer near the right one: how near, or 1 and 0 at a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from groupwise.chat import CompletionValue, completion_text
from groupwise.rewards.extract import tagged
from groupwise.rewards.match import accepted, similarity, word_f1
from groupwise.rewards.parameters import ask_for_columns, check_number, check_tag, check_word
from groupwise.rewards.verdict import LogWhy, Verdict, told

MEASURES = {"characters": similarity, "words": word_f1}


@dataclass(frozen=True)
class FuzzyMatch:
    """How near a completion comes to the answer, 0 to 1, the best of several; without an answer None.

    Case, punctuation, articles and white space do not count. With `tag`, what stands in the last `<tag>...</tag>` is
    compared, and a completion without one gets 0.
    """

    __name__: ClassVar[str] = "fuzzy_match"

    column: str = "answer"
    measure: Literal["characters", "words"] = "words"
    threshold: float | None = None
    tag: str | None = None

    def __post_init__(self) -> None:
        check_word("fuzzy_match", "measure", self.measure, tuple(MEASURES))
        if self.threshold is not None:
            check_number("fuzzy_match", "threshold", self.threshold, least=0, most=1)
        if self.tag is not None:
            check_tag("fuzzy_match", self.tag)
        ask_for_columns(self, "fuzzy_match", [self.column])

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
        near, gold = max((MEASURES[self.measure](given, each), each) for each in golds)
        why = f"{near:.2f} like {gold[:60]!r}"
        return (near, why) if self.threshold is None else (float(near >= self.threshold), why)
