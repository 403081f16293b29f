"""The checkpoint hook: decides when a checkpoint is written and which are kept, and loads the best one at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from groupwise.checkpoint.best import Best
from groupwise.checkpoint.checkpoint_writer import CheckpointWriter
from groupwise.checkpoint.share_state import share_state
from groupwise.checkpoint.store import load_weights
from groupwise.errors import RunError
from groupwise.runs.manifest import check
from groupwise.runs.writer import RunWriter
from groupwise.train.schedule import Schedule
from groupwise.train.step import Idle, StepRecord

_log = logging.getLogger(__name__)


class Saving(Protocol):
    """What a checkpoint depends on beside the parts that it holds: the guards of the run."""

    @property
    def may_save(self) -> bool: ...

    @property
    def is_stopped(self) -> bool: ...

    def num_kept(self, limit: int | None) -> int | None: ...


class Events(Protocol):
    """The user's callbacks, as far as checkpoints concern them."""

    state: Any

    def take(self, wish: str) -> bool: ...

    def call(self, event: str) -> None: ...

    def stop_if_asked(self, schedule: Schedule, writer: RunWriter) -> None: ...


class CheckpointHook(Idle):
    """Saves every `save_steps`, at the end, when a callback requests it, and where an evaluation is the best so far."""

    def __init__(
        self, writer: CheckpointWriter, best: Best, schedule: Schedule, guards: Saving, callbacks: Events
    ) -> None:
        self.writer, self.best, self.schedule = writer, best, schedule
        self.guards, self.callbacks = guards, callbacks
        self.config = writer.learner.config

    def start(self) -> None:
        self.writer.hold_room()

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        step = record.step
        self.callbacks.stop_if_asked(self.schedule, self.writer.records)
        is_better = self.best.is_better(step)
        is_due = self._is_due(step) or (is_better and self.config.load_best_model_at_end)
        if is_due and self.guards.may_save:
            if is_better:
                self._take_best(step)
            self.save(step)
        return {}

    def _is_due(self, step: int) -> bool:
        is_due = self.schedule.is_due(step, self.config.save_steps, self.config.save_strategy)
        is_last = step == self.schedule.num_steps and self.config.save_strategy != "no"
        is_asked = self.callbacks.take("should_save") or self.schedule.is_stopping
        return is_due or is_last or is_asked

    def _take_best(self, step: int) -> None:
        """This step's checkpoint, which is about to be written, is the best one."""
        self.best.take(step)
        self.callbacks.state.best_model_checkpoint = str(self.writer.folder.checkpoint_of(step))

    def end(self) -> None:
        if self.config.load_best_model_at_end and self.best.step is not None and not self.guards.is_stopped:
            self._load_best(self.best.step)
            share_state(self.writer.learner, self.writer.learner.world)
        self.writer.reserve.release()

    def _load_best(self, step: int) -> None:
        path = self.writer.folder.checkpoint_of(step)
        try:
            check(path)
            load_weights(path, self.writer.learner.policy_model)
            text = (
                f"The model has the weights of step {step}, whose {self.best.metric} of {self.best.value:g} was best."
            )
        except RunError as error:
            text = f"The model keeps the weights of the last step. {error}"
        self.writer.records.event("best", step=step, message=text)
        _log.info(text)

    def save(self, step: int) -> None:
        """Write a checkpoint of the finished step."""
        self.writer.write(step, **self._kept)
        self.callbacks.call("on_save")
        self.callbacks.stop_if_asked(self.schedule, self.writer.records)

    def save_exact(self) -> int | None:
        """Write the checkpoint that can still be written exactly when a run breaks off; the step it is of."""
        return self.writer.write_exact(**self._kept) if self.guards.may_save else None

    @property
    def _kept(self) -> dict[str, int | None]:
        """Which checkpoints stay: how many of the newest, and the step of the best."""
        return {"keep": self.guards.num_kept(self.config.save_total_limit), "best": self.best.step}
