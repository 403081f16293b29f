"""The reward that follows a cosine from one value to another as the completion grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, get_args

from groupwise.chat import CompletionValue
from groupwise.rewards.parameters import check_count, check_number, check_word
from groupwise.rewards.shipped.length import Unit, lengths


@dataclass(frozen=True)
class CosineLength:
    """end + (start - end) / 2 x (1 + cos(pi x length / max_length)); `exceed` from max_length on.

    CosFn of "Demystifying Long Chain-of-Thought Reasoning" (2502.03373), section 4.2. There a right answer goes
    from 2 to 1 (short is better), a wrong one from -10 to 0 (thinking longer is better), and -10 is for running into
    the limit: two of these rewards, one gated by `when`, the other by `unless`.
    """

    __name__: ClassVar[str] = "cosine_length"

    max_length: int
    start: float = 2.0
    end: float = 1.0
    exceed: float | None = None
    unit: Unit = "tokens"

    def __post_init__(self) -> None:
        check_count("cosine_length", "max_length", self.max_length)
        check_word("cosine_length", "unit", self.unit, get_args(Unit))
        for name in ("start", "end", *(["exceed"] if self.exceed is not None else [])):
            check_number("cosine_length", name, getattr(self, name))

    def __call__(
        self, completions: Sequence[CompletionValue], completion_ids: Sequence[Sequence[int]] | None = None
    ) -> list[float]:
        return [self._along(length) for length in lengths(self.unit, completions, completion_ids)]

    def _along(self, length: int) -> float:
        if length >= self.max_length:
            return self.end if self.exceed is None else self.exceed
        return self.end + (self.start - self.end) / 2 * (1 + math.cos(math.pi * length / self.max_length))
