"""The reward for the right number, within a tolerance: 1 or 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from groupwise.rewards.answer_reward import NO_ANSWER, AnswerReward, Verdict
from groupwise.rewards.extract import Place, find_number
from groupwise.rewards.gold import gold_number, is_missing
from groupwise.rewards.parameters import check_number, check_tag, check_word


@dataclass(frozen=True)
class Number(AnswerReward):
    """1 where |given - answer| <= max(tolerance, relative * |answer|), otherwise 0; without an answer, None.

    The given number is the one at `place` (extract.find_number); a completion without one gets 0.
    """

    __name__: ClassVar[str] = "number"

    place: Place = "auto"
    tag: str = "answer"
    tolerance: float = 1e-6
    relative: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_word("number", "place", self.place, get_args(Place))
        check_tag("number", self.tag)
        check_number("number", "tolerance", self.tolerance, least=0)
        check_number("number", "relative", self.relative, least=0)

    def check_row(self, columns: Mapping[str, Any]) -> None:
        """Raise `DataError` for a problem whose answer is no single number."""
        if not is_missing(columns[self.column]):
            gold_number("number", columns[self.column])

    def verdict(self, text: str, answer: Any) -> Verdict:
        if is_missing(answer):
            return NO_ANSWER
        gold, given = gold_number("number", answer), find_number(text, self.place, self.tag)
        if given is None:
            return 0.0, "no number found"
        is_right = abs(given - gold) <= max(self.tolerance, self.relative * abs(gold))
        return float(is_right), f"{given} {'is' if is_right else 'is not'} {gold}"
