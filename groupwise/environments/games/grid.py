"""Walk over a small grid to a goal: which word moves where is learnt from what comes back."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from groupwise.environments.environment import Observation, Reply
from groupwise.errors import ConfigError
from groupwise.types import Message, Problem

MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, 1), "down": (0, -1)}
CLOSER, FARTHER, GOAL = 0.1, -0.1, 1.0
HELD_OUT = 5
"""One pair of start and goal in so many is never trained on."""

_MOVE = re.compile(r"\b(left|right|up|down)\b", re.IGNORECASE)
_RULES = "Walk to the goal. x grows to the right, y grows up. Answer with one word: left, right, up or down."
_EXAMPLES = (((0, 2), (1, 1), ("right", "down")), ((2, 0), (1, 2), ("up", "left", "up")))


class Grid:
    """A turn is worth 0.1 for a step closer to the goal, -0.1 for any other, 1 for the step that reaches it.

    A reply's first word of left, right, up and down is its move; a wall, or a reply without such a word, is a step to
    nowhere.
    """

    def __init__(self, size: int = 3, moves: int = 6, examples: int = 2, turn_rewards: bool = True) -> None:
        """`turn_rewards`: false leaves nothing but the 1 for the goal."""
        if size < 2 or moves < 1 or not 0 <= examples <= len(_EXAMPLES):
            raise ConfigError(
                f"environment grid: size {size}, moves {moves}, examples {examples}; a grid has 2 x 2 cells or more, a "
                f"walk a move, and there are 0 to {len(_EXAMPLES)} examples."
            )
        self.size, self.moves, self.examples, self.turn_rewards = size, moves, examples, turn_rewards
        self._at, self._goal, self._left = (0, 0), (0, 0), moves

    def problems(self, split: str) -> list[dict[str, Any]]:
        """Every pair of a start and another cell as goal; a fifth of them is held out."""
        cells = [(x, y) for x in range(self.size) for y in range(self.size)]
        pairs = [(start, goal) for start in cells for goal in cells if start != goal]
        random.Random(f"grid/{self.size}").shuffle(pairs)
        num_held_out = len(pairs) // HELD_OUT
        chosen = pairs[:num_held_out] if split == "eval" else pairs[num_held_out:]
        shown = self._shown()
        return [
            {"prompt": [*shown, _message(start, goal)], "start": list(start), "goal": list(goal)}
            for start, goal in chosen
        ]

    def _shown(self) -> list[Message]:
        """The rules, and walks that reach their goal."""
        messages: list[Message] = [{"role": "system", "content": _RULES}]
        for at, goal, words in _EXAMPLES[: self.examples]:
            for word in words:
                messages += [_message(at, goal), {"role": "assistant", "content": word}]
                at = (at[0] + MOVES[word][0], at[1] + MOVES[word][1])
        return messages

    @property
    def state(self) -> str:
        """Where it stands and where it has to go: walks that meet can be compared."""
        return f"{self._at} {self._goal}"

    def reset(self, problem: Problem, seed: int) -> Sequence[Message]:
        (x, y), (a, b) = problem.columns["start"], problem.columns["goal"]
        self._at, self._goal, self._left = (int(x), int(y)), (int(a), int(b)), self.moves
        return ()

    def step(self, reply: Reply) -> Observation:
        before = self._distance()
        found = _MOVE.search(reply.text)
        if found is not None:
            dx, dy = MOVES[found[0].lower()]
            x, y = self._at[0] + dx, self._at[1] + dy
            if 0 <= x < self.size and 0 <= y < self.size:
                self._at = (x, y)
        self._left -= 1
        if self._at == self._goal:
            return Observation(reward=GOAL, done=True)
        reward = CLOSER if self._distance() < before else FARTHER
        messages = [] if self._left == 0 else [_message(self._at, self._goal)]
        return Observation(messages, reward=reward if self.turn_rewards else 0.0)

    def _distance(self) -> int:
        return abs(self._at[0] - self._goal[0]) + abs(self._at[1] - self._goal[1])

    def close(self) -> None:
        """There is nothing to release."""


def _message(at: tuple[int, int], goal: tuple[int, int]) -> Message:
    """The way to the goal. With two places instead, the default model's moves were still at chance after 40 steps."""
    return {"role": "user", "content": f"The goal is ({goal[0] - at[0]:+d},{goal[1] - at[1]:+d}) from here."}
