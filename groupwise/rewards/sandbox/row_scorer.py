"""Calls a function in pre-started workers, row by row, each with a time limit."""

from __future__ import annotations

import os
import secrets
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groupwise.errors import ConfigError, RewardError
from groupwise.rewards.sandbox.backend import Backend
from groupwise.rewards.sandbox.backend_choice import backend_for, pool_of
from groupwise.rewards.sandbox.import_paths import paths_for
from groupwise.rewards.sandbox.limits import Limits
from groupwise.rewards.sandbox.worker_process import Deadline, Process, WorkerError

CPU_S = 3600.0
"""Processor seconds of a worker that serves many rows; one row has its time by the clock."""
START_S = 60.0
"""Seconds that a worker may take to import its function."""


@dataclass(frozen=True)
class Outcome:
    """The JSON value a function returned, or why there is none."""

    value: Any
    error: str | None
    """One sentence ("timed out after 10 s", "killed: out of memory", "raised ValueError: ..."), or None."""
    seconds: float


class Sandboxed:
    """`function(**row)` for each row, in worker processes that alone import it (`package.module:function`).

    `needs_sandbox`: the function evaluates parts of a completion as code, or a library that it calls does; where there
    is no sandbox it is then refused. One that only reads runs in a plain process there.

    A worker serves row after row until one misbehaves: raises nothing but ends, hangs, or leaves a process behind. Then
    the row gets its `error` and the next one a new worker.
    """

    def __init__(
        self,
        function: str,
        timeout_s: float = 10.0,
        num_workers: int | None = None,
        *,
        needs_sandbox: bool = True,
    ) -> None:
        self.function = function
        self.timeout_s = timeout_s
        self.num_workers = num_workers or min(4, os.cpu_count() or 1)
        self.needs_sandbox = needs_sandbox
        self.limits = Limits(memory_mb=2048, open_files=256)
        self.idle: list[Process] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _kill_all, self.idle)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Outcome]:
        """One outcome a row, in order."""
        rows = list(rows)
        if not rows:
            return []
        with pool_of(min(self.num_workers, len(rows))) as threads:
            return list(threads.map(self._outcome, rows))

    def close(self) -> None:
        """End the workers; the next call starts new ones."""
        with self._lock:
            _kill_all(self.idle)

    def _outcome(self, row: Mapping[str, Any]) -> Outcome:
        worker = self._take()
        start = time.perf_counter()
        nonce = secrets.token_hex(16)
        try:
            worker.send({"nonce": nonce, "row": dict(row)})
            answer = worker.receive(Deadline(self.timeout_s))
            if not isinstance(answer, dict) or answer.get("nonce") != nonce:
                raise WorkerError("answered out of turn")
        except WorkerError as error:
            worker.kill()
            return Outcome(None, str(error), time.perf_counter() - start)
        except BaseException:
            worker.kill()
            raise
        if worker.num_processes > 1:
            worker.kill()  # it left something running, which could reach the next row
        else:
            with self._lock:
                self.idle.append(worker)
        return Outcome(answer.get("value"), answer.get("error"), time.perf_counter() - start)

    def _take(self) -> Process:
        backend = backend_for(untrusted=self.needs_sandbox)
        with self._lock:
            for worker in self.idle:
                if worker.backend == backend:
                    self.idle.remove(worker)
                    return worker
        return self._start(backend)

    def load(self) -> None:
        """Start a worker now, so that what is missing is found before a rollout."""
        worker = self._take()
        with self._lock:
            self.idle.append(worker)

    def check_sandbox(self) -> None:
        """Raise `ConfigError` where no worker could be started, for want of a sandbox."""
        backend_for(untrusted=self.needs_sandbox)

    def _start(self, backend: Backend) -> Process:
        paths = paths_for(self.function)
        worker = Process(backend, self.limits, paths.readable)
        worker.await_start(START_S)
        worker.send_task("score", CPU_S, paths.path, function=self.function)
        try:
            answer = worker.receive(Deadline(START_S))
        except WorkerError as error:
            worker.kill()
            said = f" Its errors: {worker.errors.strip()[-300:]}" if worker.errors.strip() else ""
            raise RewardError(f"A worker could not import {self.function}: {error}.{said}") from None
        if "failed" in answer:
            worker.kill()
            raise ConfigError(f"A worker could not import {self.function}: {answer['failed']}.")
        return worker


def _kill_all(workers: list[Process]) -> None:
    while workers:
        workers.pop().kill()
