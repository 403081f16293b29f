"""The reward that an environment gave, as one reward function among others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from groupwise.types import Steps, Turn


@dataclass(frozen=True)
class EnvironmentReward:
    """The sum over the turns of a completion; None where no turn was scored."""

    by_turn: bool = False
    """Whether each turn is a step of its own, for advantages from the rewards of steps (`process_rewards`)."""
    kinds: frozenset[str] | None = None
    """Values of the column `environment` whose completions it is about, where there are several environments."""

    def __call__(
        self, completion_turns: Sequence[Sequence[Turn]], environment: Sequence[str] | None = None
    ) -> list[float | Steps | None]:
        if self.kinds is None or environment is None:
            return [self._of(turns) for turns in completion_turns]
        pairs = zip(completion_turns, environment, strict=True)
        return [self._of(turns) if kind in self.kinds else None for turns, kind in pairs]

    def _of(self, turns: Sequence[Turn]) -> float | Steps | None:
        scored = tuple((turn.end, turn.reward) for turn in turns if turn.reward is not None)
        if not scored:
            return None
        return scored if self.by_turn else math.fsum(reward for _, reward in scored)
