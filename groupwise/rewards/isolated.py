"""A user's own reward function in a worker process: a crash or a hang ends the worker and not the run.

No sandbox: the function is trusted and may read, write and connect as the user can. Arguments and rewards travel as
JSON.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from groupwise.errors import ConfigError, RewardError
from groupwise.rewards.call_limits import TIMEOUT_S
from groupwise.rewards.interrupt import CallTimeoutError
from groupwise.rewards.sandbox.backend import Launch
from groupwise.rewards.sandbox.backend_choice import chosen
from groupwise.rewards.sandbox.inside.frames import packed
from groupwise.rewards.sandbox.limits import Limits
from groupwise.rewards.sandbox.worker_process import Deadline, Process, WorkerError
from groupwise.types import LOG_KEYWORDS

START_S = 300.0
"""Seconds to start and import the function: it may load a model."""
NO_TIMEOUT_S = 10 * 365 * 86400.0
NO_LIMITS = Limits(memory_mb=1 << 40, output_bytes=1 << 30)


class FailedInWorkerError(Exception):
    """The function raised in its worker, or took the worker with it."""

    def __init__(self, message: str, line: str = "", row: int | None = None) -> None:
        super().__init__(message)
        self.line, self.row = line, row


@dataclass(frozen=True)
class UserProcess:
    """Starts this Python with the user's environment."""

    name: ClassVar[str] = "isolated"
    about: ClassVar[str] = ""
    is_isolated: ClassVar[bool] = False
    has_init: ClassVar[bool] = False
    counts_processes: ClassVar[bool] = False

    def launch(self, limits: Limits, readable: Sequence[Path]) -> Launch:
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        command = [sys.executable, "-m", "groupwise.rewards.isolated_worker"]
        return Launch(command, {**os.environ, "PYTHONPATH": path}, folder=os.getcwd())


class Isolated:
    """`file.py:function` or `module:function`, called in a process of its own that is started again when it dies."""

    def __init__(self, function: str, folder: Path, timeout_s: float = TIMEOUT_S) -> None:
        self.function, self.folder, self.timeout_s = function, folder.resolve(), timeout_s
        self._workers: list[Process] = []
        weakref.finalize(self, close, self._workers)
        about = self._start()
        self.__name__ = str(about["name"])
        self.__signature__ = _signature(about)

    def __call__(self, **keywords: Any) -> Any:
        """The value of the function for these keywords; `FailedInWorkerError`, `CallTimeoutError`."""
        notes: dict[str, Callable[..., None]] = {name: keywords.pop(name) for name in LOG_KEYWORDS if name in keywords}
        if "trainer_state" in keywords:
            keywords["trainer_state"] = _plain_state(keywords["trainer_state"])
        self._check_is_json(keywords)
        if not self._workers:
            self._start()
        worker = self._workers[0]
        worker.send({"keywords": keywords, "notes": list(notes)})
        answer = self._answer(worker)
        for name, arguments in answer.get("notes", []):
            notes[name](*arguments)
        if "raised" in answer:
            raise FailedInWorkerError(f"raised {answer['raised']}", answer["line"], answer["row"])
        return answer["value"]

    def _answer(self, worker: Process) -> Any:
        start = time.monotonic()
        seconds = self.timeout_s or NO_TIMEOUT_S
        try:
            answer = worker.receive(Deadline(seconds))
        except WorkerError as error:
            said = worker.errors.strip()
            close(self._workers)
            if time.monotonic() - start >= seconds:
                raise CallTimeoutError(str(error)) from None
            last = f' (its last output: "{said.splitlines()[-1][:200]}")' if said else ""
            raise FailedInWorkerError(f"took its worker process with it: {error}{last}") from None
        except BaseException:  # Ctrl-C while it was waited for: its answer would be taken for the next one's
            close(self._workers)
            raise
        sys.stderr.write(worker.take_errors())  # what it printed
        return answer

    def _start(self) -> dict[str, Any]:
        """Start the worker and import the function in it."""
        worker = Process(UserProcess(), NO_LIMITS)
        self._workers.append(worker)
        try:
            worker.send({"function": self.function, "folder": str(self.folder), "sandbox": asdict(chosen())})
            about: dict[str, Any] = worker.receive(Deadline(START_S))
        except WorkerError as error:
            said = worker.errors.strip()
            close(self._workers)
            raise ConfigError(f"A process for reward {self.function} did not start: {error}. {said[-300:]}") from None
        if "failed" in about:
            close(self._workers)
            raise ConfigError(about["failed"])
        return about

    def _check_is_json(self, keywords: dict[str, Any]) -> None:
        for name, values in keywords.items():
            if (complaint := _not_json(values)) is None:
                continue
            found = ((row, _not_json(value)) for row, value in enumerate(values, start=1) if isinstance(values, list))
            row = next((f"completion {row}: {why}" for row, why in found if why is not None), complaint)
            raise RewardError(
                f'Reward function "{self.__name__}" runs isolated and takes "{name}", which cannot be handed to '
                f"another process as JSON ({row}). Make the column text or numbers, or leave isolated away."
            )


def close(workers: list[Process]) -> None:
    """End the workers."""
    while workers:
        workers.pop().kill()


def _signature(about: dict[str, Any]) -> inspect.Signature:
    """The keywords that the function takes, as its worker reported them."""
    parameter = inspect.Parameter
    named = [
        parameter(name, parameter.KEYWORD_ONLY, default=parameter.empty if name in about["required"] else None)
        for name in about["accepted"]
    ]
    rest = [parameter("columns", parameter.VAR_KEYWORD)] if about["takes_all_columns"] else []
    return inspect.Signature([*named, *rest])


def _not_json(value: Any) -> str | None:
    """The reason why a value does not survive JSON unchanged; None where it does."""
    try:
        packed(value)
    except (TypeError, ValueError, RecursionError) as error:
        return str(error)
    key = next(_other_keys(value), None)
    return None if key is None else f"the key {key!r} is no text"


def _other_keys(value: Any) -> Iterator[Any]:
    """Keys that JSON would turn into text, at any depth."""
    if isinstance(value, dict):
        yield from (key for key in value if not isinstance(key, str))
        value = list(value.values())
    for item in value if isinstance(value, list | tuple) else ():
        yield from _other_keys(item)


def _plain_state(state: Any) -> dict[str, Any]:
    """The numbers and texts of the trainer's state."""
    values = {} if state is None else vars(state)
    return {
        name: value for name, value in values.items() if value is None or isinstance(value, bool | int | float | str)
    }
