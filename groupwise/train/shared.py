"""The collector of several ranks: rank 0 collects, every rank learns from the same groups."""

from __future__ import annotations

from typing import Any

from groupwise.train.collect import Collected, Collector
from groupwise.world import World

LEARN = "learn"
"""The order that comes with the groups of a step."""


class SharedCollector(Collector):
    """The collector of rank 0: what it has collected goes to every rank, which then learns from it."""

    def __init__(self, *parts: Any, world: World) -> None:
        super().__init__(*parts)
        self.world = world

    def collect(self, step: int, trainer_state: Any = None) -> Collected:
        collected = super().collect(step, trainer_state)
        self.world.order(LEARN, (step, collected.groups))
        return collected
