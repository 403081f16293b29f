"""`arithmetic`: what is 7 + 5 * 2? Levels by the number of terms and their digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from groupwise.errors import ConfigError
from groupwise.rewards.function import RewardFunction
from groupwise.tasks.asking import Place
from groupwise.tasks.generated import Generated, Question, Split, check_max_level

LEVELS = ((2, 1), (3, 1), (2, 2), (3, 2), (4, 2), (3, 3))
"""(terms, digits) of levels 1 to 6."""

OPERATORS = "+-*"


@dataclass(frozen=True)
class Arithmetic(Generated):
    """A sum, difference or product of whole numbers; 1 for the right result, otherwise 0."""

    place: Place = "last"
    system_prompt: str | None = "Answer with the number alone."
    operators: str = "+-"
    """Those of + - * that join the terms; * binds more tightly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_max_level(self, "arithmetic", len(LEVELS))
        if not self.operators or set(self.operators) - set(OPERATORS):
            raise ConfigError(f'task arithmetic: operators is "{self.operators}"; expected some of "{OPERATORS}".')

    def rows(self, split: Split) -> list[dict[str, Any]]:
        return self.rows_of(split, self.make, "arithmetic")

    def rewards(self) -> list[RewardFunction]:
        return [RewardFunction.of(self.number(), name="arithmetic")]

    def make(self, random: Random, level: int) -> Question:
        terms, digits = LEVELS[level - 1]
        numbers = [random.randint(1 if digits == 1 else 10 ** (digits - 1), 10**digits - 1) for _ in range(terms)]
        joins = [random.choice(self.operators) for _ in numbers[1:]]
        text = str(numbers[0]) + "".join(f" {join} {n}" for join, n in zip(joins, numbers[1:], strict=True))
        return Question(f"What is {text}?", _key(numbers, joins), {"answer": result(numbers, joins)})


def result(numbers: Sequence[int], joins: Sequence[str]) -> int:
    """The value of numbers joined by + - *, products first."""
    total, product = 0, numbers[0]
    for join, number in zip(joins, numbers[1:], strict=True):
        if join == "*":
            product *= number
        else:
            total, product = total + product, number if join == "+" else -number
    return total + product


def _key(numbers: Sequence[int], joins: Sequence[str]) -> str:
    """Equal for 3 * 4 and 4 * 3, so that both are in one split."""
    is_commutative = len(set(joins)) == 1 and joins[0] in "+*"
    return f"{joins} {sorted(numbers) if is_commutative else numbers}"
