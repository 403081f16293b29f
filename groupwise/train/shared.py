"""The collector of several ranks: rank 0 collects, every rank learns from the same groups."""

from __future__ import annotations

from typing import Any

from groupwise.train.collect import Collected, Collector
from groupwise.world import World

LEARN = "learn"
"""The order that comes with the groups of a step."""


class SharedCollector:
    """The collector of rank 0: what it has collected goes to every rank, which then learns from it."""

    def __init__(self, collector: Collector, world: World) -> None:
        self.collector, self.world = collector, world

    def collect(self, step: int, trainer_state: Any = None) -> Collected:
        collected = self.collector.collect(step, trainer_state)
        self.world.order(LEARN, (step, collected.groups))
        return collected
