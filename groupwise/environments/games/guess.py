"""Guess a secret number: after each guess the policy reads whether the secret is higher or lower."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from groupwise.environments.environment import Observation, Reply
from groupwise.errors import ConfigError
from groupwise.types import Message, Problem

NUM_PROBLEMS = 64
"""Rows of one prompt: a game's secret is its draw's, not its row's."""

_NUMBER = re.compile(r"-?\d+")
_EXAMPLES = (0.7, 0.2)
"""Secrets of example games, as shares of the range."""


class Guess:
    """A win is worth 1; a lost game half the share of its guesses that no hint had ruled out.

    The secret is drawn from the group's seed, so that all completions of a group look for the same number. A reply's
    first number is its guess; a reply without one uses a guess up.
    """

    def __init__(self, low: int = 1, high: int = 10, guesses: int = 4, examples: int = 2) -> None:
        """`examples`: games that the prompt shows, where the game poses its own problems."""
        if not low < high or guesses < 1:
            raise ConfigError(f"environment guess: low {low}, high {high}, guesses {guesses}; low is below high.")
        if not 0 <= examples <= len(_EXAMPLES):
            raise ConfigError(f"environment guess: examples is {examples}; there are 0 to {len(_EXAMPLES)}.")
        self.low, self.high, self.guesses, self.examples = low, high, guesses, examples
        self._secret, self._left, self._consistent = low, guesses, 0
        self._is_won = False
        self._least, self._most = low, high
        """What the hints leave."""

    def problems(self, split: str) -> list[dict[str, Any]] | None:
        """One prompt, many times; nothing is held out: evaluations draw secrets of their own."""
        rules = (
            f"Guess the secret number from {self.low} to {self.high}. After each guess you read whether it is higher "
            "or lower. Answer with one number."
        )
        messages: list[Message] = [{"role": "system", "content": rules}]
        for share in _EXAMPLES[: self.examples]:
            messages += self._example(self.low + round(share * (self.high - self.low)))
        return [{"prompt": [*messages, _START]}] * NUM_PROBLEMS if split == "train" else None

    def _example(self, secret: int) -> list[Message]:
        """A game won by halving."""
        least, most, messages = self.low, self.high, [_START]
        while True:
            guess = (least + most) // 2
            messages.append({"role": "assistant", "content": str(guess)})
            if guess == secret:
                return messages
            least, most = (guess + 1, most) if guess < secret else (least, guess - 1)
            messages.append({"role": "user", "content": "higher" if guess < secret else "lower"})

    def reset(self, problem: Problem, seed: int) -> Sequence[Message]:
        self._secret = random.Random(seed).randint(self.low, self.high)
        self._left, self._consistent, self._is_won = self.guesses, 0, False
        self._least, self._most = self.low, self.high
        return ()

    def step(self, reply: Reply) -> Observation:
        found = _NUMBER.search(reply.text)
        guess = int(found[0]) if found else None
        self._left -= 1
        self._is_won = guess == self._secret
        if guess is not None and self._least <= guess <= self._most:
            self._consistent += 1
        if self._is_won or self._left == 0:
            return Observation(done=True)
        return Observation([{"role": "user", "content": self._hint(guess)}])

    def final_reward(self) -> float:
        """What the game is worth, one that was cut off too."""
        return 1.0 if self._is_won else 0.5 * self._consistent / self.guesses

    def _hint(self, guess: int | None) -> str:
        if guess is None:
            return f"Guess a number from {self.low} to {self.high}."
        if guess < self._secret:
            self._least = max(self._least, guess + 1)
            return "higher"
        self._most = min(self._most, guess - 1)
        return "lower"

    def close(self) -> None:
        """There is nothing to release."""


_START: Message = {"role": "user", "content": "A new game. Your guess?"}
