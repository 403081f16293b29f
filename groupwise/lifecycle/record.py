"""The log and the record of every step: trackers, `log_history`, the line of metrics.jsonl, the screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from groupwise.lifecycle.callbacks import Callbacks
from groupwise.runs.screen import Screen
from groupwise.runs.trackers import Trackers
from groupwise.runs.writer import RunWriter
from groupwise.train.step import Idle, StepRecord
from groupwise.train.step_metrics import finite, without_evaluation


class LogHook(Idle):
    """Logs a step every `logging_steps`, or when a callback requests it; an evaluation has its own entry."""

    def __init__(self, callbacks: Callbacks, trackers: Trackers, every: int | None) -> None:
        self._callbacks, self._trackers, self._every = callbacks, trackers, every

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        is_asked = self._callbacks.take("should_log")
        if is_asked or (self._every and record.step % self._every == 0):
            self._callbacks.log(finite(without_evaluation(record.metrics)), self._trackers)
        return {}


class RecordHook(Idle):
    """Writes the line of the step and shows it; from then on the step is whole (`finish`)."""

    def __init__(self, writer: RunWriter, screen: Screen, finish: Callable[[int], None]) -> None:
        self._writer, self._screen, self._finish = writer, screen, finish

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        metrics = dict(record.metrics)
        self._writer.step(metrics)
        self._finish(record.step)
        self._screen.step(metrics, [group for group in record.groups if group.is_used])
        return {}
