"""The checkpoint hook: saves when due, keeps the best one, reserves room for the next one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, Protocol

from groupwise.checkpoint.best import Best
from groupwise.checkpoint.exact import ExactState
from groupwise.checkpoint.fingerprint import Origin
from groupwise.checkpoint.store import load_weights, num_bytes_of, save_checkpoint
from groupwise.errors import RunError
from groupwise.policy.save import ModelWriter
from groupwise.runs.disk import free_bytes
from groupwise.runs.folder import RunFolder
from groupwise.runs.manifest import check
from groupwise.runs.reserve import Reserve
from groupwise.runs.writer import RunWriter
from groupwise.train.learner import Learner
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
        self,
        folder: RunFolder,
        writer: RunWriter,
        learner: Learner,
        model_writer: ModelWriter,
        schedule: Schedule,
        guards: Saving,
        callbacks: Events,
        state_of_parts: Callable[[], dict[str, Any]],
        evaluation_of_step: Callable[[int], Mapping[str, Any]],
        origin: Origin,
    ) -> None:
        self.config, self.folder, self.writer, self.learner = learner.config, folder, writer, learner
        self.model_writer = model_writer
        self.schedule, self.guards, self.callbacks = schedule, guards, callbacks
        self.origin = origin
        """What the checkpoints of this run belong to."""
        self.best = Best(learner.config)
        self._state_of_parts, self._evaluation_of_step = state_of_parts, evaluation_of_step
        self.exact = ExactState(learner, state_of_parts)
        self.reserve = Reserve(folder.reserve)

    def start(self) -> None:
        self._hold_room()

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        step, evaluated = record.step, self._evaluation_of_step(record.step)
        self.callbacks.stop_if_asked(self.schedule, self.writer)
        is_better = self.best.is_better(evaluated)
        is_due = self._is_due(step) or (is_better and self.config.load_best_model_at_end)
        if is_due and self.guards.may_save:
            if is_better:
                self._take_best(step, evaluated)
            self.save(step)
        return {}

    def _is_due(self, step: int) -> bool:
        is_due = self.schedule.is_due(step, self.config.save_steps, self.config.save_strategy)
        is_last = step == self.schedule.num_steps and self.config.save_strategy != "no"
        is_asked = self.callbacks.take("should_save") or self.schedule.is_stopping
        return is_due or is_last or is_asked

    def _take_best(self, step: int, evaluated: Mapping[str, Any]) -> None:
        """This step's checkpoint, which is about to be written, is the best one."""
        self.best.take(step, evaluated)
        self.callbacks.state.best_model_checkpoint = str(self.folder.checkpoint_of(step))

    def end(self) -> None:
        if self.config.load_best_model_at_end and self.best.step is not None and not self.guards.is_stopped:
            self._load_best(self.best.step)
        self.reserve.release()

    def _load_best(self, step: int) -> None:
        path = self.folder.checkpoint_of(step)
        try:
            check(path)
            load_weights(path, self.learner.policy_model.model)
            text = (
                f"The model has the weights of step {step}, whose {self.best.metric} of {self.best.value:g} was best."
            )
        except RunError as error:
            text = f"The model keeps the weights of the last step. {error}"
        self.writer.event("best", step=step, message=text)
        _log.info(text)

    def save(self, step: int) -> None:
        """Write a checkpoint of the finished step."""
        self._write(step, self._state_of_parts())
        self.callbacks.call("on_save")
        self.callbacks.stop_if_asked(self.schedule, self.writer)

    def save_exact(self) -> int | None:
        """Write the checkpoint that can still be written exactly when a run breaks off; the step it is of."""
        exact = self.exact.exact
        if exact is None or exact.step == 0 or not self.guards.may_save:
            return None
        if self.folder.checkpoint_of(exact.step).is_dir():
            return None
        self.reserve.release()
        exact.write_first()
        self._write(exact.step, exact.state)
        return exact.step

    def _write(self, step: int, state: Mapping[str, Any]) -> None:
        """The records go to the disk first: a checkpoint never knows more steps than they do."""
        start = perf_counter()
        self.writer.flush()
        self.reserve.release()
        keep = self.guards.num_kept(self.config.save_total_limit)
        whole = {**state, "origin": self.origin}
        path = save_checkpoint(
            self.folder, step, self.learner, self.model_writer, whole, keep=keep, best=self.best.step
        )
        self._hold_room()
        where, seconds = str(path.relative_to(self.folder.path)), perf_counter() - start
        self.writer.event("checkpoint", step=step, path=where, seconds=round(seconds, 3))

    def _hold_room(self) -> None:
        """Keep the disk from running full before the next checkpoint, or warn now that it will."""
        num_bytes = num_bytes_of(self.learner, self.model_writer)
        if self.config.save_strategy != "no" and not self.reserve.take(num_bytes):
            missing = num_bytes - free_bytes(self.folder.path)
            text = f"The disk has no room for the next checkpoint: {missing:,} bytes more are needed."
            self.writer.event("warning", message=text)
            _log.warning(text)
