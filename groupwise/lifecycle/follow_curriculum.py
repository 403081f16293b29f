"""The curriculum after each step: it learns from the groups, and its changes are reported."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from groupwise.config import Settings
from groupwise.data.curriculum import successes
from groupwise.data.order import Order
from groupwise.runs.writer import RunWriter
from groupwise.train.step import Idle, StepRecord

_log = logging.getLogger(__name__)


class CurriculumHook(Idle):
    """Lets the curriculum learn from every step, dropped groups too, and reports what changed."""

    def __init__(self, order: Order, config: Settings, writer: RunWriter) -> None:
        self._order, self._config, self._writer = order, config, writer

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        config, curriculum = self._config, self._order.curriculum
        if curriculum is None:
            return {}
        seen = successes(record.groups, config.curriculum_reward, config.curriculum_solved_at)
        for change in self._order.observe(seen):
            self._writer.event("curriculum", step=record.step, change=change)
            if config.curriculum == "levels":
                _log.info(f"Step {record.step}: {change}.")
        return curriculum.metrics()
