"""The collector of several ranks: rank 0 collects, every rank learns from the same groups."""

from __future__ import annotations

from typing import Any

from groupwise.train.collect import Collected, Collector
from groupwise.world import World

LEARN = "learn"
"""The order that comes with the groups of a step."""


class SharedCollector(Collector):
    """A collector of rank 0 whose groups go to every rank when the step takes them; all of them learn from it."""

    def __init__(self, collector: Collector, world: World) -> None:
        super().__init__(collector.order, collector.sampler, collector.scorer, collector.config, collector.on_progress)
        self._collector, self._world = collector, world

    def collect(self, step: int, trainer_state: Any = None) -> Collected:
        collected = self._collector.collect(step, trainer_state)
        self._world.order(LEARN, (step, collected.groups))
        return collected
