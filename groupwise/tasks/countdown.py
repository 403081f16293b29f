"""`countdown`: reach a target with given numbers and + - * /, each number once. Levels by how many numbers."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any

from groupwise.chat import CompletionValue, completion_text
from groupwise.errors import ConfigError
from groupwise.rewards.answer_reward import LogWhy, Verdict, split_reasons
from groupwise.rewards.function import RewardFunction
from groupwise.tasks.asking import Place, check_whole
from groupwise.tasks.generated import Generated, Question, Split, check_max_level

MAX_LEVEL = 5
"""Level n gives n + 1 numbers."""

MAX_CHARACTERS = 200
"""Longer expressions are wrong: no right one comes near."""

_ARITHMETIC = re.compile(r"[0-9+\-*/() ]+")

_OPERATORS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


@dataclass(frozen=True)
class Countdown(Generated):
    """1 for an expression of exactly the given numbers that equals the target; `partial` if only its value is wrong.

    The score for a well-formed try is TinyZero's (github.com/Jiayi-Pan/TinyZero), which gives 0.1 for it.
    """

    place: Place = "tag"
    max_number: int = 20
    """Largest given number."""
    max_target: int = 100
    """Largest target."""
    partial: float = 0.1
    """Reward of an expression that uses the right numbers and misses the target; 0 makes the reward 1 or 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_max_level(self, "countdown", MAX_LEVEL)
        for name in ("max_number", "max_target"):
            check_whole("task countdown", name, getattr(self, name), 5)
        if isinstance(self.partial, bool) or not isinstance(self.partial, int | float) or not 0 <= self.partial < 1:
            raise ConfigError(f"task countdown: partial is {self.partial!r}; expected a number from 0 to below 1.")
        if self.place == "last":
            raise ConfigError("task countdown: place last finds a number; expected line, tag, boxed, hashes or whole.")

    def rows(self, split: Split) -> list[dict[str, Any]]:
        return self.rows_of(split, self.make, "countdown")

    def rewards(self) -> list[RewardFunction]:
        return [RewardFunction.of(self.score, name="countdown")]

    def make(self, random: Random, level: int) -> Question:
        """Numbers and a target that a random expression of them reaches."""
        while True:
            numbers = [random.randint(1, self.max_number) for _ in range(level + 1)]
            solution, value = _combine(random, numbers)
            if value.denominator == 1 and 1 <= value <= self.max_target and int(value) not in numbers:
                break
        listed = ", ".join(map(str, numbers))
        text = (
            f"Using each of the numbers {listed} exactly once, with + - * / and brackets, write an expression that "
            f"equals {value}."
        )
        key = f"{sorted(numbers)} {value}"
        return Question(text, key, {"numbers": numbers, "target": int(value), "solution": solution})

    def score(
        self,
        completions: Sequence[CompletionValue],
        numbers: Sequence[Sequence[int]],
        target: Sequence[int],
        log_why: LogWhy | None = None,
    ) -> list[float | None]:
        rows = zip(completions, numbers, target, strict=True)
        return split_reasons((self._verdict(completion_text(c), given, goal) for c, given, goal in rows), log_why)

    def _verdict(self, text: str, numbers: Sequence[int], target: int) -> Verdict:
        expression = (self.answer(text) or "").partition("=")[0].strip()
        read = evaluate(expression)
        if read is None:
            return 0.0, "no expression"
        value, used = read
        if Counter(used) != Counter(numbers):
            return 0.0, f"uses {sorted(used)}, given are {sorted(numbers)}"
        is_right = value == target
        return (1.0 if is_right else self.partial), f"{expression} = {value}"


def evaluate(expression: str) -> tuple[Fraction, list[int]] | None:
    """Exact value of an expression of whole numbers, + - * / and brackets, and its numbers; None for anything else.

    The text is parsed, never run.
    """
    expression = expression.replace("×", "*").replace("÷", "/").replace("−", "-")
    if len(expression) > MAX_CHARACTERS or not _ARITHMETIC.fullmatch(expression):
        return None
    try:
        tree = ast.parse(expression, mode="eval")
        used: list[int] = []
        return _value(tree.body, used), used
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, used)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _apply(_OPERATORS[type(node.op)], _value(node.left, used), _value(node.right, used))
    raise ValueError("no arithmetic")


def _apply(operator: str, left: Fraction, right: Fraction) -> Fraction:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    return left * right if operator == "*" else left / right


def _combine(random: Random, numbers: Sequence[int]) -> tuple[str, Fraction]:
    """A random expression of all numbers, fully bracketed, and its value."""
    parts = [(str(number), Fraction(number)) for number in numbers]
    while len(parts) > 1:
        (a, x), (b, y) = (parts.pop(random.randrange(len(parts))) for _ in range(2))
        operator = random.choice("+-*/" if y else "+-*")
        parts.append((f"({a} {operator} {b})", _apply(operator, x, y)))
    return parts[0]
