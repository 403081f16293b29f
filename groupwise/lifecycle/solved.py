"""Tells solved groups among those without signal, by the highest reward that there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groupwise.rounding import differ
from groupwise.train.step import Idle, StepRecord
from groupwise.train.step_metrics import solved_share


class Solved(Idle):
    """Remembers the lowest and the highest reward of a run; `known` is the most that its functions can give.

    What the functions can give is often not known. The highest of the run so far stands in for it once there was a
    lower one: a reward that never differed is no success.
    """

    def __init__(self, known: float | None) -> None:
        self._known = known
        self.lowest: float | None = None
        self.highest: float | None = None

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        rewards = [reward for group in record.groups for reward in group.reward if reward is not None]
        seen = [bound for bound in (self.lowest, self.highest) if bound is not None]
        self.lowest, self.highest = min([*seen, *rewards], default=None), max([*seen, *rewards], default=None)
        return {"frac_reward_zero_std/solved": solved_share(record.groups, self._most)}

    @property
    def _most(self) -> float | None:
        if self._known is not None:
            return self._known
        return self.highest if differ((self.lowest, self.highest)) else None

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"lowest": self.lowest, "highest": self.highest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.lowest, self.highest = state["lowest"], state["highest"]
