"""Runs untrusted programs, each in a sandbox that was started before and is used once.

Their output and the values of their functions are compared outside or in another sandbox: a program can only return
what a right program returns, or fail.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from groupwise.rewards.sandbox.backend import Backend
from groupwise.rewards.sandbox.backend_choice import backend_for
from groupwise.rewards.sandbox.import_paths import installed_packages
from groupwise.rewards.sandbox.limits import Limits
from groupwise.rewards.sandbox.worker_process import Deadline, Process, WorkerError, ending

START_S = 60.0
"""Seconds a worker may take to start, beside the time of its program: a busy machine is not the program's fault."""


@dataclass(frozen=True)
class Printed:
    """The output of a program; `error`: the reason of a bad end."""

    text: str
    error: str | None


class Programs:
    """`num_ready` workers wait, started; each takes one program and is killed after it."""

    def __init__(self, timeout_s: float, limits: Limits, num_ready: int | None = None) -> None:
        self.timeout_s, self.limits = timeout_s, limits
        self.num_ready = num_ready or min(8, os.cpu_count() or 1)
        self.waiting: list[Process] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _kill_all, self.waiting)

    def start(self) -> None:
        """Start the workers that wait; `ConfigError` where there is no sandbox for them."""
        backend = backend_for(untrusted=True)
        with self._lock:
            while sum(worker.backend == backend for worker in self.waiting) < self.num_ready:
                self.waiting.append(self._started(backend))

    def check_sandbox(self) -> None:
        """Raise `ConfigError` where there is none."""
        backend_for(untrusted=True)

    def close(self) -> None:
        """End the workers that wait."""
        with self._lock:
            _kill_all(self.waiting)

    def run(self, source: str, stdin: str) -> Printed:
        """Run a program with this input."""
        with self._one_worker() as worker:
            self._give(worker, "run_program", source=source, stdin=stdin)
            deadline = Deadline(self.timeout_s)
            try:
                text = worker.read_all(deadline).decode("utf-8", "replace")
                status = worker.wait(deadline)
            except WorkerError as error:
                return Printed("", str(error))
            return Printed(text, _failing(status, worker.errors) if status else None)

    def check(self, source: str, tests: Sequence[str], entry_point: str | None) -> list[str | None]:
        """The failure of each test, None where it passed; tests after a program's end fail with it."""
        with self._one_worker() as program, self._one_worker() as checker:
            self._give(program, "serve", source=source)
            self._give(checker, "check")
            failures: list[str | None] = []
            try:
                loaded = program.receive(Deadline(self.timeout_s))
                if (failure := _raised(loaded)) is not None:
                    return [failure] * len(tests)
                for test in tests:
                    checker.send({"test": test, "entry_point": entry_point})
                    failures.append(_converse(program, checker, Deadline(self.timeout_s)))
            except WorkerError as error:
                failures += [str(error)] * (len(tests) - len(failures))
            return failures

    def _give(self, worker: Process, kind: str, **more: Any) -> None:
        worker.send_task(kind, self.timeout_s, [str(path) for path in installed_packages()], **more)

    @contextmanager
    def _one_worker(self) -> Iterator[Process]:
        """A worker that waits, with another one started in its place; killed when it is done with."""
        backend = backend_for(untrusted=True)
        with self._lock:
            if (worker := next((each for each in self.waiting if each.backend == backend), None)) is None:
                worker = self._started(backend)
            else:
                self.waiting.remove(worker)
            self.waiting.append(self._started(backend))
        try:
            worker.await_start(START_S)
            yield worker
        finally:
            worker.kill()

    def _started(self, backend: Backend) -> Process:
        return Process(backend, self.limits, installed_packages())


def _converse(program: Process, checker: Process, deadline: Deadline) -> str | None:
    """Carry calls from the test to the program and answers back, until the test has ended."""
    while True:
        message = checker.receive(deadline)
        if "call" not in message:
            failed = message["failed"]
            assert failed is None or isinstance(failed, str)
            return failed
        program.send(message["call"])
        checker.send(program.receive(deadline))


def _raised(answer: Any) -> str | None:
    if isinstance(answer, dict) and "raised" in answer:
        return f"{answer['raised']}: {answer.get('message')}"[:300]
    return None


def _failing(status: int, errors: str) -> str:
    """The last line of a traceback, or the exit status in words."""
    lines = errors.strip().splitlines()
    is_traceback = status == 1 and "Traceback" in errors and "MemoryError" not in errors
    return f"raised {lines[-1]}"[:300] if is_traceback else ending(status, errors)


def _kill_all(workers: list[Process]) -> None:
    while workers:
        workers.pop().kill()
