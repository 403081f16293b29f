"""Calls `transformers.TrainerCallback`s at the events they know; `docs/from-trl.md` lists them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState

from groupwise.data import Order
from groupwise.json_values import plain_value
from groupwise.runs.log_entries import evaluation_entry
from groupwise.runs.trackers import Trackers
from groupwise.runs.writer import RunWriter
from groupwise.torch_settings import settings_of_program
from groupwise.train.ahead import Ahead
from groupwise.train.schedule import Schedule
from groupwise.train.step import Idle, StepRecord
from groupwise.types import Problem

Log = Callable[[Mapping[str, float | None]], None]
"""Adds an entry to every log: a trainer's own method, which a subclass may extend."""

_PLACE = ("epoch", "num_input_tokens_seen", "best_metric", "best_global_step", "best_model_checkpoint")
"""Fields of the ecosystem's state that belong to a checkpoint, beside step and log."""


class Callbacks:
    """The user's callbacks with the state and control objects of the ecosystem."""

    def __init__(self, callbacks: Sequence[TrainerCallback | type[TrainerCallback]], args: Any) -> None:
        self.args = args
        self.state = TrainerState()
        self.control = TrainerControl()
        self.stopper: str | None = None
        """Class of the callback that has set `should_training_stop`; None where it was set outside of every event."""
        self.closing: dict[str, float | None] = {}
        """The last entry of a run that has ended: `train_runtime`, `train_loss`, ..."""
        self.context: dict[str, Any] = {}
        """Keyword arguments of every event: model, processing_class, optimizer, lr_scheduler."""
        self._callbacks: list[TrainerCallback] = []
        for callback in callbacks:
            self.add(callback)

    def add(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        self._callbacks.append(callback() if isinstance(callback, type) else callback)

    @property
    def listed(self) -> list[TrainerCallback]:
        """All of them, in the order of their calls."""
        return list(self._callbacks)

    def pop(self, wanted: TrainerCallback | type[TrainerCallback]) -> TrainerCallback | None:
        """Take out a callback, or the first of that class; None where there is none."""
        for place, callback in enumerate(self._callbacks):
            if callback is wanted or (isinstance(wanted, type) and isinstance(callback, wanted)):
                return self._callbacks.pop(place)
        return None

    def begin_run(self) -> None:
        """Forget what an earlier run of the same trainer has left: its place, its log, and a wish to stop."""
        if self.state.global_step > 0:
            self.state = TrainerState()
        self.control.should_training_stop = False
        self.stopper = None
        self.closing = {}

    def plan(self, num_steps: int, steps_per_epoch: float) -> None:
        """Write into the state what the run is going to do."""
        self.state.max_steps = num_steps
        self.state.num_train_epochs = math.ceil(num_steps / steps_per_epoch)
        self.state.train_batch_size = self.args.per_device_train_batch_size
        for name in ("logging_steps", "eval_steps", "save_steps"):
            if (every := getattr(self.args, name)) is not None:
                setattr(self.state, name, every)

    def call(self, event: str, **kwargs: Any) -> None:
        for callback in self._callbacks:
            method = getattr(callback, event, None)
            if method is None:
                continue
            was_asked = self.control.should_training_stop
            with settings_of_program():
                answer = method(self.args, self.state, self.control, **self.context, **kwargs)
            if answer is not None:
                self.control = answer
            if self.control.should_training_stop != was_asked:
                self.stopper = type(callback).__name__

    def log(self, numbers: Mapping[str, float | None], trackers: Trackers | None = None) -> None:
        """Add an entry of the step that the state is at to `log_history`, the trackers and `on_log`."""
        step = self.state.global_step
        self.state.log_history.append({**numbers, "step": step})
        if trackers is not None:
            trackers.log(numbers, step)
        self.call("on_log", logs=dict(numbers))

    def evaluated(self, metrics: Mapping[str, Any], log: Log | None = None) -> None:
        """Log an evaluation as an entry of its own, independent of `logging_steps`, then call `on_evaluate`.

        `log` adds the entry to every log, by default to `log_history` and `on_log`.
        """
        numbers = evaluation_entry(metrics, float(self.state.epoch or 0))
        (log or self.log)(numbers)
        self.call("on_evaluate", metrics=numbers)

    def close_log(self, numbers: Mapping[str, float | None], log: Log) -> None:
        """Log the last entry of a run, and keep it for the result of training."""
        self.closing = dict(numbers)
        log(numbers)

    def close_again(self, numbers: Mapping[str, float | None], step: int) -> None:
        """Take the closing entry that a run without a step left to do has recorded: it is logged already."""
        self.closing = dict(numbers)
        if numbers:
            self.state.log_history.append({**numbers, "step": step})

    def take(self, wish: str) -> bool:
        """Whether a callback asked for `should_save`, `should_evaluate` or `should_log`; asking is once."""
        asked = bool(getattr(self.control, wish))
        setattr(self.control, wish, False)
        return asked

    def stop_if_asked(self, schedule: Schedule, writer: RunWriter) -> None:
        """End the run after this step where a callback has set `should_training_stop`, and record which one."""
        if self.control.should_training_stop and not schedule.is_stopping:
            schedule.stop(f"callback {self.stopper}" if self.stopper else "a callback")
            writer.event("stopped", step=self.state.global_step, callback=self.stopper)

    def state_dict(self) -> dict[str, Any]:
        """Where the run is, and the state of every callback that can export one; plain JSON."""
        own = [c.state()["attributes"] if isinstance(c, ExportableState) else None for c in self._callbacks]
        return {"own": own, **{name: getattr(self.state, name) for name in _PLACE}}

    def as_json(self, step: int, place: Mapping[str, Any]) -> str:
        """The ecosystem's `trainer_state.json` of a step whose `state_dict` is `place`; the state may be further on."""
        values = {field.name: getattr(self.state, field.name) for field in fields(TrainerState)}
        log = [entry for entry in self.state.log_history if entry.get("step", 0) <= step]
        values |= {**{name: place[name] for name in _PLACE}, "global_step": step, "log_history": log}
        return json.dumps(values, default=lambda value: plain_value(value, {}))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back; the attributes of callbacks go to those that stand at the same places."""
        for name in _PLACE:
            setattr(self.state, name, state[name])
        for callback, attributes in zip(self._callbacks, state["own"], strict=False):
            if isinstance(callback, ExportableState) and attributes is not None:
                for name, value in attributes.items():
                    setattr(callback, name, value)


class CallbackHook(Idle):
    """Calls the user's callbacks before and after every step, and at both ends of the run."""

    def __init__(self, callbacks: Callbacks, schedule: Schedule, order: Order | Ahead) -> None:
        self._callbacks, self._schedule, self._order = callbacks, schedule, order

    def start(self) -> None:
        callbacks, schedule = self._callbacks, self._schedule
        callbacks.plan(schedule.num_steps, schedule.steps_per_epoch)
        callbacks.state.global_step, callbacks.state.epoch = schedule.step, self._order.epoch
        callbacks.call("on_train_begin")

    def before_step(self, step: int) -> None:
        if step == 1 or self._schedule.is_due(step - 1, None, "epoch"):
            self._callbacks.call("on_epoch_begin")
        self._callbacks.call("on_step_begin")

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        self._callbacks.call("on_optimizer_step")
        self._callbacks.call("on_step_end")
        return {}

    def end(self) -> None:
        self._callbacks.call("on_train_end")


def loader_of(problems: Sequence[Problem] | None, batch_size: int) -> DataLoader[Any] | None:
    """The rows of a data set for callbacks that look at them: lists of dicts, in the order of the data."""
    if problems is None:
        return None
    rows = _Rows(problems)
    return DataLoader(rows, batch_size=batch_size, collate_fn=list)


class _Rows(Dataset[dict[str, Any]]):
    """The problems as the rows that they were."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems

    def __len__(self) -> int:
        return len(self._problems)

    def __getitem__(self, row: int) -> dict[str, Any]:
        problem = self._problems[row]
        return {"prompt": problem.prompt, **problem.columns}
