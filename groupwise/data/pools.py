"""Pools: problems that are always or never solved have no signal, so they are drawn seldom or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groupwise.data.curriculum import Seen

POOLS = ("easy", "learning", "hard")


@dataclass(frozen=True)
class PoolRules:
    """When a problem changes its pool, and how often each pool is drawn.

    A problem of the learning pool moves after `patience` visits in a row with a success rate of at least `easy_at` (or
    at most `hard_at`). It comes back on one visit that is more than `margin` away from that bound: hysteresis, so that
    a single lucky or unlucky group moves nothing to and fro.
    """

    easy_at: float = 1.0
    hard_at: float = 0.0
    margin: float = 0.2
    patience: int = 2
    easy_weight: float = 0.1
    hard_weight: float = 0.25


class Pools:
    """Keeps for each problem its pool and its streak: visits in a row that were easy (+) or hard (-).

    `indices`: the problem's number in the data set, one a row of the order. Every problem starts in learning.
    """

    def __init__(self, indices: Sequence[int], rules: PoolRules) -> None:
        self.indices, self.rules = indices, rules
        self._pool: dict[int, str] = {}
        self._streak: dict[int, int] = {}

    def pool(self, problem: int) -> str:
        """easy, learning or hard."""
        return self._pool.get(problem, "learning")

    def weight(self, row: int) -> float:
        weights = {"easy": self.rules.easy_weight, "learning": 1.0, "hard": self.rules.hard_weight}
        return weights[self.pool(self.indices[row])]

    def observe(self, seen: Sequence[Seen]) -> list[str]:
        moves: Counter[tuple[str, str]] = Counter()
        for each in seen:
            before = self.pool(each.problem)
            self._visit(each)
            if self.pool(each.problem) != before:
                moves[before, self.pool(each.problem)] += 1
        return [f"{number} from {before} to {after}" for (before, after), number in sorted(moves.items())]

    def metrics(self) -> dict[str, float]:
        counts = Counter(map(self.pool, self.indices))
        return {f"curriculum/{pool}": counts[pool] / len(self.indices) for pool in POOLS}

    def state_dict(self) -> dict[str, Any]:
        return {"pool": sorted(self._pool.items()), "streak": sorted(self._streak.items())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._pool = dict(state["pool"])
        self._streak = dict(state["streak"])

    def _visit(self, seen: Seen) -> None:
        rules, pool = self.rules, self.pool(seen.problem)
        if pool == "learning":
            self._count(seen)
        elif (pool == "easy" and seen.success < rules.easy_at - rules.margin) or (
            pool == "hard" and seen.success > rules.hard_at + rules.margin
        ):
            del self._pool[seen.problem]

    def _count(self, seen: Seen) -> None:
        """One visit more of a learning problem; the streak starts anew when it is neither a success nor a failure."""
        sign = int(seen.success >= self.rules.easy_at) - int(seen.success <= self.rules.hard_at)
        before = self._streak.pop(seen.problem, 0)
        streak = before + sign if before * sign > 0 else sign
        if abs(streak) >= self.rules.patience:
            self._pool[seen.problem] = "easy" if streak > 0 else "hard"
        elif streak:
            self._streak[seen.problem] = streak
