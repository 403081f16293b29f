"""Sends records to wandb, tensorboard or trackio. The run folder is always written, whatever happens here.

Keys are those of the ecosystem's trainers: `train/reward`, `eval/reward`, with `train/global_step` as the x axis.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from groupwise.errors import ConfigError, did_you_mean
from groupwise.json_values import plain_value
from groupwise.redact import redact, without_secrets
from groupwise.runs.folder import RunFolder
from groupwise.runs.tracker_queue import TakesTables, Tracker, TrackerQueue

PROJECT = "groupwise"
"""Project name where the tracker needs one and neither an open run nor the environment gives one."""

STEP_KEY = "train/global_step"

WAIT_S = 20.0
"""How long the run waits for a tracker that starts: it may ask for a login before the screen is ours."""

CALL_S = 120.0
"""How long one call of a tracker may take, in its own thread."""

FINISH_S = 60.0
"""How long the end of a run waits for what a tracker has still to send."""


class Wandb:
    """Weights & Biases. A run that the user has opened is used and left open."""

    name = "wandb"

    def __init__(self) -> None:
        self._run: Any = None
        self._is_ours = False

    def start(self, config: Mapping[str, Any], run_name: str, folder: RunFolder) -> None:
        wandb = import_module("wandb")
        self._is_ours = wandb.run is None
        if self._is_ours:
            project = os.environ.get("WANDB_PROJECT", PROJECT)
            self._run = wandb.init(project=project, name=run_name, dir=str(folder.path), config=dict(config))
        else:
            self._run = wandb.run
            self._run.config.update(dict(config), allow_val_change=True)
        self._run.define_metric(STEP_KEY)
        self._run.define_metric("*", step_metric=STEP_KEY, step_sync=True)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, STEP_KEY: step})

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        table = import_module("wandb").Table(columns=list(columns), data=[list(row) for row in rows])
        self._run.log({name: table, STEP_KEY: step})

    def finish(self) -> None:
        if self._is_ours and self._run is not None:
            self._run.finish()


class Tensorboard:
    """Event files in `<run>/tensorboard`, written without torch."""

    name = "tensorboard"

    def __init__(self) -> None:
        self._writer: Any = None

    def start(self, config: Mapping[str, Any], run_name: str, folder: RunFolder) -> None:
        writer = import_module("tensorboard.summary.writer.event_file_writer")
        self._writer = writer.EventFileWriter(str(folder.path / "tensorboard"))

    def log(self, values: Mapping[str, float], step: int) -> None:
        event_pb2 = import_module("tensorboard.compat.proto.event_pb2")
        summary_pb2 = import_module("tensorboard.compat.proto.summary_pb2")
        scalars = [summary_pb2.Summary.Value(tag=key, simple_value=value) for key, value in values.items()]
        summary = summary_pb2.Summary(value=scalars)
        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Trackio:
    """Hugging Face's local tracker."""

    name = "trackio"

    def __init__(self) -> None:
        self._trackio: Any = None

    def start(self, config: Mapping[str, Any], run_name: str, folder: RunFolder) -> None:
        trackio = import_module("trackio")
        trackio.init(project=os.environ.get("TRACKIO_PROJECT", PROJECT), name=run_name, config=dict(config))
        self._trackio = trackio

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._trackio.log(dict(values), step=step)

    def finish(self) -> None:
        if self._trackio is not None:
            self._trackio.finish()


TRACKERS: dict[str, Callable[[], Tracker]] = {"wandb": Wandb, "tensorboard": Tensorboard, "trackio": Trackio}


class Trackers:
    """All trackers of a run. Training never waits for one; one that fails or hangs is dropped with a warning."""

    def __init__(self, trackers: Sequence[Tracker], on_failure: Callable[[str, str], None]) -> None:
        """`on_failure(tracker name, what happened)` is called once for each tracker that is dropped."""
        self._queues = [TrackerQueue(tracker) for tracker in trackers]
        self._on_failure = on_failure

    @property
    def names(self) -> list[str]:
        return [queue.tracker.name for queue in self._queues]

    def start(self, config: Mapping[str, Any], run_name: str, folder: RunFolder) -> None:
        """Start each tracker; one that needs longer than `WAIT_S` goes on starting beside the run."""
        plain = plain_value(without_secrets(config), {})
        for queue in self._queues:
            queue.put("start", lambda tracker: tracker.start(plain, run_name, folder), CALL_S)
        for queue in self._queues:
            queue.wait(WAIT_S)
        self._drop_failed()

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Hand the measured numbers over; the trackers' own threads send them."""
        values = {tracker_key(k): float(v) for k, v in metrics.items() if isinstance(v, int | float) and k != "step"}
        for queue in self._queues:
            queue.put("log", lambda tracker: tracker.log(values, step), CALL_S)
        self._drop_failed()

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Hand a table of text and numbers to the trackers that take tables, as far as it shows no secret."""
        safe = [[redact(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
        for queue in self._queues:
            if safe and isinstance(queue.tracker, TakesTables):
                queue.put("log", lambda t: cast(TakesTables, t).log_table(name, columns, safe, step), CALL_S)
        self._drop_failed()

    def finish(self) -> None:
        """Let each tracker send what it has, for `FINISH_S` at most."""
        for queue in self._queues:
            queue.put("finish", lambda tracker: tracker.finish(), FINISH_S)
        for queue in self._queues:
            queue.end(FINISH_S)
        self._drop_failed()

    def _drop_failed(self) -> None:
        failed = [(queue, failure) for queue in self._queues if (failure := queue.failure) is not None]
        self._queues = [queue for queue in self._queues if all(queue is not other for other, _ in failed)]
        for queue, failure in failed:
            self._on_failure(queue.tracker.name, redact(failure))


def open_trackers(report_to: str | Sequence[str], on_failure: Callable[[str, str], None]) -> Trackers:
    """The trackers that `report_to` names: names, "none", or "all" (those installed). Starts nothing yet.

    Raises:
        ConfigError: an unknown name, or a package that is not installed.
    """
    names = [report_to] if isinstance(report_to, str) else list(report_to)
    if "all" in names:
        names = [name for name in TRACKERS if is_installed(name)]
    names = [name for name in dict.fromkeys(names) if name != "none"]
    for name in names:
        _check(name)
    return Trackers([TRACKERS[name]() for name in names], on_failure)


def _check(name: str) -> None:
    if name not in TRACKERS:
        known = ", ".join([*TRACKERS, "all", "none"])
        raise ConfigError(
            f'Unknown tracker "{name}" in report_to; expected one of {known}.{did_you_mean(name, TRACKERS)}'
        )
    if not is_installed(name):
        raise ConfigError(
            f'report_to names "{name}", but the package {name} is not installed. '
            f'Install it with: pip install "groupwise[{name}]", or set report_to to "none".'
        )


def is_installed(package: str) -> bool:
    """Whether the package can be imported; a mere folder of that name (wandb leaves one behind) does not count."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None and Path(spec.origin).is_file()


def tracker_key(key: str) -> str:
    """`reward` -> `train/reward`, `eval_reward` -> `eval/reward`."""
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"
