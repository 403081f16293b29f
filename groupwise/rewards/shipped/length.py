"""The reward for answers of a wanted length: -|target - length|."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from groupwise.chat import CompletionValue, completion_text
from groupwise.errors import ConfigError, RewardError, did_you_mean

Unit = Literal["characters", "words", "tokens"]


@dataclass(frozen=True)
class Length:
    """-|target - length|: 0 at the target, one less for every unit too short or too long.

    Tokens are those that were sampled, the end token included; words are what white space separates.
    """

    __name__: ClassVar[str] = "length"

    target: float = 50
    unit: Unit = "characters"

    def __post_init__(self) -> None:
        is_number = isinstance(self.target, int | float) and not isinstance(self.target, bool)
        if not is_number or not math.isfinite(self.target) or self.target < 0:
            raise ConfigError(f"Reward length: target is {self.target!r}; give a number of {self.unit}, 0 or more.")
        units = get_args(Unit)
        if self.unit not in units:
            raise ConfigError(
                f"Reward length: unit is {self.unit!r}; known units: {', '.join(units)}."
                f"{did_you_mean(str(self.unit), units)}"
            )

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
