"""Writes the checkpoints of a run: the one that is due, and the one that an aborted run can still write."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from groupwise.checkpoint.exact import ExactState
from groupwise.checkpoint.fingerprint import Origin
from groupwise.checkpoint.store import num_bytes_of, save_checkpoint
from groupwise.checkpoint.whole import whole_learner
from groupwise.policy.save import ModelWriter
from groupwise.runs.disk import free_bytes
from groupwise.runs.reserve import Reserve
from groupwise.runs.writer import RunWriter
from groupwise.train.learner import Learner

_log = logging.getLogger(__name__)


class CheckpointWriter:
    """What a checkpoint is made of, and the room that is held for the next one.

    `state_of_parts` is what it holds beside tensors, plain JSON; `origin` what it belongs to; `trainer_state` makes the
    ecosystem's file of a step and the callbacks' part of its state.
    """

    def __init__(
        self,
        records: RunWriter,
        learner: Learner,
        model_writer: ModelWriter,
        state_of_parts: Callable[[], dict[str, Any]],
        origin: Origin,
        trainer_state: Callable[[int, Mapping[str, Any]], str],
    ) -> None:
        self.records, self.folder, self.learner = records, records.folder, learner
        self.model_writer, self.origin = model_writer, origin
        self._state_of_parts, self._trainer_state = state_of_parts, trainer_state
        self.exact = ExactState(learner, state_of_parts)
        self.reserve = Reserve(records.folder.reserve)

    def write(self, step: int, *, keep: int | None, best: int | None) -> None:
        """Write a checkpoint of the finished step, and delete the oldest beyond `keep`."""
        self._write(step, self._state_of_parts(), keep, best)

    def write_exact(self, *, keep: int | None, best: int | None) -> int | None:
        """Write the checkpoint that can still be written exactly when a run breaks off; the step it is of."""
        exact = self.exact.exact
        if exact is None or exact.step == 0 or self.folder.checkpoint_of(exact.step).is_dir():
            return None
        self.reserve.release()
        exact.write_first()
        self._write(exact.step, exact.state, keep, best)
        return exact.step

    def _write(self, step: int, state: Mapping[str, Any], keep: int | None, best: int | None) -> None:
        """The records go to the disk first: a checkpoint never knows more steps than they do."""
        start = perf_counter()
        self.records.flush()
        self.reserve.release()
        whole = {**state, "origin": self.origin}
        text = self._trainer_state(step, state["parts"]["callbacks"])
        with whole_learner(self.learner):
            path = save_checkpoint(
                self.folder, step, self.learner, self.model_writer, whole, text, keep=keep, best=best
            )
        self.hold_room()
        where, seconds = str(path.relative_to(self.folder.path)), perf_counter() - start
        self.records.event("checkpoint", step=step, path=where, seconds=round(seconds, 3))

    def hold_room(self) -> None:
        """Keep the disk from running full before the next checkpoint, or warn now that it will."""
        num_bytes = num_bytes_of(self.learner, self.model_writer)
        if self.learner.config.save_strategy != "no" and not self.reserve.take(num_bytes):
            missing = num_bytes - free_bytes(self.folder.path)
            text = f"The disk has no room for the next checkpoint: {missing:,} bytes more are needed."
            self.records.event("warning", message=text)
            _log.warning(text)
