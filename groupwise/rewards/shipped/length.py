"""The reward for answers of a wanted length: -|target - length|."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from groupwise.chat import CompletionValue, completion_text
from groupwise.errors import RewardError
from groupwise.rewards.parameters import check_number, check_word

Unit = Literal["characters", "words", "tokens"]


@dataclass(frozen=True)
class Length:
    """-|target - length|: 0 at the target, one less for every unit too short or too long.

    Tokens are those that were sampled, the end token included; words are what white space separates.
    """

    __name__: ClassVar[str] = "length"
    highest: ClassVar[float] = 0.0

    target: float = 50
    unit: Unit = "characters"

    def __post_init__(self) -> None:
        check_number("length", "target", self.target, least=0)
        check_word("length", "unit", self.unit, get_args(Unit))

    def __call__(
        self, completions: Sequence[CompletionValue], completion_ids: Sequence[Sequence[int]] | None = None
    ) -> list[float]:
        return [-abs(float(self.target) - length) for length in lengths(self.unit, completions, completion_ids)]


def lengths(
    unit: Unit, completions: Sequence[CompletionValue], completion_ids: Sequence[Sequence[int]] | None
) -> list[int]:
    """The length of each completion; `completion_ids` are read for tokens alone."""
    if unit == "tokens":
        if completion_ids is None:
            raise RewardError(
                "A length in tokens is counted in token ids, and these completions have none. Give "
                "completion_ids with them, or unit: words."
            )
        return [len(ids) for ids in completion_ids]
    texts = [completion_text(completion) for completion in completions]
    return [len(text.split()) if unit == "words" else len(text) for text in texts]
