"""Collects later steps while the learner updates: with a lag of k, step s is sampled from the weights after s - 1 - k.

The lag is exact and not a bound. Collections run one after the other in the order of their steps, so that what is
drawn, and in which order, is that of no lag; no clock decides anything. A checkpoint waits for the collections under
way and holds them.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

from groupwise.rollout.engine import VersionedEngine
from groupwise.torch_settings import forget_program
from groupwise.train.collect import Collected, Collector
from groupwise.train.collected_state import decoded, encoded
from groupwise.train.schedule import Schedule


class Ahead(Collector):
    """A collector that is `lag` collections ahead of the step that asks. An engine of several versions carries it."""

    def __init__(self, collector: Collector, engine: VersionedEngine, schedule: Schedule, lag: int) -> None:
        assert lag > 0
        super().__init__(collector.order, collector.sampler, collector.scorer, collector.config, collector.on_progress)
        self._collector, self._engine, self._schedule, self._lag = collector, engine, schedule, lag
        self._pending: dict[int, Future[Collected]] = {}
        """Step -> its collection, under way or done, until the step takes it."""
        self._encoded: dict[int, dict[str, Any]] = {}
        self._awaited: int | None = None
        self._running: int | None = None
        self._epochs: dict[int, float] = {}
        """Step -> epochs drawn up to its collection."""
        self._epoch: float | None = None
        self._on_progress, collector.on_progress = collector.on_progress, self._show

    @property
    def epoch(self) -> float:
        """Epochs drawn up to the step taken last: the order itself is further on."""
        return self._collector.order.epoch if self._epoch is None else self._epoch

    def collect(self, step: int, trainer_state: Any = None) -> Collected:
        """The groups of the step; those of `step + lag` begin, under the weights after `step - 1`."""
        for ahead in range(step, min(step + self._lag, self._schedule.num_steps) + 1):
            if ahead not in self._pending:
                self._begin(ahead, step - 1, copy.copy(trainer_state))
        self._awaited = step
        collected = self._pending[step].result()
        del self._pending[step]
        self._encoded.pop(step, None)
        self._epoch = self._epochs.pop(step)
        return collected

    def state_dict(self) -> dict[str, Any]:
        """The collections that no step has taken yet, once they are done; plain JSON.

        One that failed is left out, and the order of the problems is as if it had not begun; its step raises the error.
        """
        held = {}
        for step, pending in sorted(self._pending.items()):
            if pending.exception() is None:
                if step not in self._encoded:
                    self._encoded[step] = {**encoded(pending.result()), "epoch": self._epochs[step]}
                held[str(step)] = self._encoded[step]
        return {"collected": held, "epoch": self._epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._pending, self._encoded, self._epoch = {}, {}, state.get("epoch")
        for step, value in state["collected"].items():
            self._pending[int(step)] = Future()
            self._epochs[int(step)] = value["epoch"]
            self._pending[int(step)].set_result(decoded(value, self._collector.sampler))

    def _begin(self, step: int, version: int, trainer_state: Any) -> None:
        before, future = self._pending.get(step - 1), Future[Collected]()
        self._engine.hold(version)  # from now on, and not from when its thread comes to it
        self._pending[step] = future
        arguments = (step, version, trainer_state, before, future)
        threading.Thread(
            target=copy_context().run, args=(self._run, *arguments), name=f"groupwise-step-{step}", daemon=True
        ).start()

    def _run(
        self, step: int, version: int, trainer_state: Any, before: Future[Collected] | None, future: Future[Collected]
    ) -> None:
        """One collection, after the one before it. Its errors are those of its step."""
        forget_program()  # its settings of torch are the process's, and the learner is at work
        try:
            if before is not None:
                before.result()
            self._running = step
            with self._engine.pinned(version):
                collected = self._collect(step, trainer_state)
            self._engine.release(version)
            future.set_result(collected)
        except BaseException as error:  # it is raised where it is waited for
            self._engine.release(version)
            future.set_exception(error)

    def _collect(self, step: int, trainer_state: Any) -> Collected:
        order = self._collector.order
        before = order.state_dict()
        try:
            collected = self._collector.collect(step, trainer_state)
            self._epochs[step] = order.epoch
            return collected
        except BaseException:
            order.load_state_dict(before)
            raise

    def _show(self, phase: str, done: int, total: int) -> None:
        """Progress of the collection that the run waits for, and of no other."""
        if self._running == self._awaited:
            self._on_progress(phase, done, total)
