"""Products that no small model has in its head, and a calculator to call: the first lesson of using a tool."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from groupwise.environments.environment import Observation, Reply
from groupwise.environments.tools import Tool, Toolbox
from groupwise.errors import ConfigError
from groupwise.tool_calls import parse_calls
from groupwise.types import Call, Message, Problem

SIZES: Mapping[str, int] = {"train": 1000, "eval": 100}
TAG, READABLE, RIGHT_CALL, RIGHT_ANSWER = 0.1, 0.2, 0.3, 1.0

_EXPRESSION = re.compile(r"\s*(\d{1,9})\s*([-+*])\s*(\d{1,9})\s*")
_NUMBER = re.compile(r"-?\d[\d,]*")
_RULES = "You have a calculator. Call it, then answer with the number alone."
_EXAMPLES = ((312, 845), (604, 127), (958, 233), (471, 366))


class Calculator:
    """The best that a completion has done counts: 1 for the right number as its answer, 0.3 for the right call, 0.2
    for a call that can be read, 0.1 for the tag of one.

    A reply without a call is the answer, its last number counts. The prompt shows worked examples; they are the dial
    between no signal and nothing left to learn.
    """

    def __init__(self, digits: int = 3, examples: int = 2, is_available: bool = True) -> None:
        """`is_available`: false makes the tool answer "unavailable", a control from which no product can be learnt."""
        if not 1 <= digits <= 6 or not 0 <= examples <= len(_EXAMPLES):
            raise ConfigError(
                f"environment calculator: digits {digits}, examples {examples}; there are 1 to 6 digits and 0 to "
                f"{len(_EXAMPLES)} examples."
            )
        self.digits, self.examples, self.is_available = digits, examples, is_available
        self._toolbox = Toolbox([Tool("calculator", self._calculate)])
        self._answer, self._best = 0, 0.0

    def problems(self, split: str) -> list[dict[str, Any]]:
        """Different products, those of one split in none of the other."""
        dice, pairs = random.Random(f"calculator/{self.digits}"), dict[tuple[int, int], None]()
        low, high = 10 ** (self.digits - 1), 10**self.digits - 1
        wanted = min(sum(SIZES.values()), (high - low) ** 2 // 4)
        while len(pairs) < wanted:
            pairs[min(pair := (dice.randint(low, high), dice.randint(low, high)), pair[::-1])] = None
        num_held_out = wanted * SIZES["eval"] // sum(SIZES.values())
        chosen = [*pairs][:num_held_out] if split == "eval" else [*pairs][num_held_out:]
        return [{"prompt": [*self._shown(), _question(a, b)], "answer": a * b} for a, b in chosen]

    def _shown(self) -> list[Message]:
        """The rules, and the worked examples."""
        messages: list[Message] = [{"role": "system", "content": _RULES}]
        for a, b in _EXAMPLES[: self.examples]:
            call = f'<tool_call>{{"name": "calculator", "arguments": {{"expression": "{a} * {b}"}}}}</tool_call>'
            messages += [_question(a, b), {"role": "assistant", "content": call}]
            messages += [{"role": "tool", "content": str(a * b)}, {"role": "assistant", "content": str(a * b)}]
        return messages

    def reset(self, problem: Problem, seed: int) -> Sequence[Message]:
        self._answer, self._best = int(problem.columns["answer"]), 0.0
        return ()

    def step(self, reply: Reply) -> Observation:
        calls = parse_calls(reply.text)
        if not calls:
            numbers = _NUMBER.findall(reply.text)
            is_right = bool(numbers) and int(numbers[-1].replace(",", "")) == self._answer
            self._earn(RIGHT_ANSWER if is_right else 0.0)
            return Observation(done=True)
        messages, ended = self._toolbox.run(calls)
        self._earn(TAG)
        for call in calls:
            self._earn(self._worth(call))
        return Observation(messages, calls=ended)

    def _worth(self, call: Call) -> float:
        if call.error is not None:
            return 0.0
        try:
            is_right = calculate(str(call.arguments.get("expression"))) == self._answer
        except ValueError:
            is_right = False
        return RIGHT_CALL if is_right and call.name == "calculator" else READABLE

    def _earn(self, worth: float) -> None:
        self._best = max(self._best, worth)

    def _calculate(self, expression: str) -> str:
        """The value of `NUMBER * NUMBER`; + and - will do, too."""
        return str(calculate(expression)) if self.is_available else "unavailable"

    def final_reward(self) -> float:
        return self._best

    def close(self) -> None:
        """There is nothing to release."""


def calculate(expression: str) -> int:
    """The value of two whole numbers joined by + - *; `ValueError` for anything else."""
    found = _EXPRESSION.fullmatch(expression)
    if found is None:
        raise ValueError("write NUMBER * NUMBER")
    left, join, right = int(found[1]), found[2], int(found[3])
    return {"+": left + right, "-": left - right, "*": left * right}[join]


def _question(a: int, b: int) -> Message:
    return {"role": "user", "content": f"What is {a} * {b}?"}
