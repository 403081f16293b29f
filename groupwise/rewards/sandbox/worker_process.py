"""A worker process seen from outside: messages with deadlines, and an end that leaves nothing running."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from groupwise.errors import RewardError
from groupwise.rewards.sandbox.backend import Backend
from groupwise.rewards.sandbox.inside.frames import HEADER, packed
from groupwise.rewards.sandbox.launcher import start
from groupwise.rewards.sandbox.limits import Limits
from groupwise.rewards.sandbox.usage import descendants, excess

WATCH_S = 0.05
"""Seconds between two looks at what a worker uses."""

STOPPED_S = 1.0
"""A longer pause between two looks means that this process was stopped or had no processor: it looks every WATCH_S."""

CHUNK = 1 << 16
KEPT_ERROR_BYTES = 4096


class WorkerError(Exception):
    """A worker did not answer, for the reason in the text. It has to be killed."""


class Deadline:
    """Seconds that are left. Time in which this process itself was stopped, and could not look, does not count."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._looked = time.monotonic()
        self._end = self._looked + seconds

    def left(self) -> float:
        now = time.monotonic()
        if now - self._looked > STOPPED_S:
            self._end += now - self._looked
        self._looked = now
        return self._end - now


class Process:
    """One started worker; memory and files are watched while it is waited for."""

    def __init__(self, backend: Backend, limits: Limits, readable: Sequence[Path] = ()) -> None:
        self.backend, self.limits = backend, limits
        launch = backend.launch(limits, readable)
        self._stop_command = launch.stop
        self.popen = start(launch)
        self._owner = os.getpid()
        assert self.popen.stdin and self.popen.stdout and self.popen.stderr  # noqa: PT018
        self._in, self._out, self._err = (p.fileno() for p in (self.popen.stdin, self.popen.stdout, self.popen.stderr))
        for fd in (self._in, self._out, self._err):
            os.set_blocking(fd, False)
        self._open = {self._in, self._out, self._err}
        self._unsent, self._received, self._errors = bytearray(), bytearray(), bytearray()
        self._watched_at = 0.0
        self._has_started = False
        self._init: int | None = None
        """A file number for the first process inside: the command that waits for it may end before it."""

    def await_start(self, seconds: float) -> None:
        """Wait until it is ready for its task; `RewardError` when it does not start, which is no row's fault."""
        if self._has_started:
            return
        try:
            self.receive(Deadline(seconds))
            self._has_started = True
            if self.backend.has_init and len(pids := descendants(self.popen.pid)) > 1:
                self._init = os.pidfd_open(pids[1])
        except WorkerError as error:
            said = f" Its errors: {self.errors.strip()[-300:]}" if self.errors.strip() else ""
            raise RewardError(f"A worker process ({self.backend.name}) did not start: {error}.{said}") from None

    def send(self, message: Any) -> None:
        """Queue a message; it is written while an answer is waited for."""
        self._unsent += packed(message)

    def send_task(self, kind: str, cpu_s: float, path: Sequence[str] = (), **more: Any) -> None:
        """Give it its one task, with the limits that it puts on itself first and the folders it imports from."""
        limits = self.limits.of_a_process(cpu_s, count_processes=self.backend.counts_processes)
        is_alone = not self.backend.is_isolated
        self.send({"task": kind, "limits": limits, "path": list(path), "ends_with_parent": is_alone, **more})

    def receive(self, deadline: Deadline) -> Any:
        """The next message."""
        header = self._take(HEADER.size, deadline)
        (length,) = HEADER.unpack(header)
        if length > self.limits.output_bytes:
            raise WorkerError(f"killed: more than {self.limits.output_bytes} bytes of output")
        try:
            return json.loads(self._take(length, deadline))
        except (ValueError, RecursionError):
            raise WorkerError("answered with what is not JSON") from None

    def read_all(self, deadline: Deadline) -> bytes:
        """All that the worker prints until it ends; it is bounded by `output_bytes`."""
        while self._out in self._open:
            self._pump(deadline)
            if len(self._received) > self.limits.output_bytes:
                raise WorkerError(f"killed: more than {self.limits.output_bytes} bytes of output")
        return bytes(self._received)

    def wait(self, deadline: Deadline) -> int:
        """The exit status of a worker that has closed its output."""
        while self.popen.poll() is None:
            self._pump(deadline)
        return int(self.popen.returncode)

    @property
    def errors(self) -> str:
        """The end of what the worker wrote to its standard error."""
        return self._errors.decode("utf-8", "replace")

    def take_errors(self) -> str:
        """The same, and forget it."""
        errors = self.errors
        self._errors.clear()
        return errors

    @property
    def num_processes(self) -> int:
        """Processes the worker consists of, itself included; the two that a sandbox starts with are not counted."""
        return len(descendants(self.popen.pid)) - 2 * self.backend.has_init

    def kill(self) -> None:
        """End the worker and all it started, and wait until it has ended."""
        if os.getpid() != self._owner:  # a forked child that ends: the worker is its parent's
            return
        if self._init is not None:
            self._end_init(self._init)
        elif self.popen.poll() is None or not self.backend.has_init:
            self._end_processes()
        if self._stop_command is not None:
            subprocess.run(self._stop_command, capture_output=True, timeout=30, check=False)
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            assert pipe is not None
            pipe.close()

    def _end_init(self, init: int) -> None:
        """The system ends every process inside with the first one, and reports its end after theirs."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(init, signal.SIGKILL)
        poll = select.poll()
        poll.register(init, select.POLLIN)
        poll.poll(5000)
        os.close(init)
        self._init = None
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout=2)
            return
        self.popen.kill()

    def _end_processes(self) -> None:
        for pid in descendants(self.popen.pid)[1:]:
            with suppress(ProcessLookupError, PermissionError):  # it ended meanwhile, and its number may be another's
                os.kill(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)  # it leads a session of its own

    def _take(self, count: int, deadline: Deadline) -> bytes:
        while len(self._received) < count:
            if self._out not in self._open:
                raise WorkerError(self._ending())
            self._pump(deadline)
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def _pump(self, deadline: Deadline) -> None:
        """Wait a moment for the pipes and move what they hold; raise at the deadline or where a limit is passed."""
        left = deadline.left()
        if left <= 0:
            raise WorkerError(f"timed out after {deadline.seconds:g} s")
        self._watch(time.monotonic())
        poll = select.poll()
        for fd in self._open - {self._in}:
            poll.register(fd, select.POLLIN)
        if self._unsent and self._in in self._open:
            poll.register(self._in, select.POLLOUT)
        for fd, _ in poll.poll(1000 * min(left, WATCH_S)):
            self._write() if fd == self._in else self._read(fd)

    def _watch(self, now: float) -> None:
        if now - self._watched_at >= WATCH_S:
            self._watched_at = now
            # Until it has started, its path to /tmp may lead to a file system that is not its own.
            has_disk = self.backend.has_init and self._has_started
            if (what := excess(self.popen.pid, self.limits, has_init=has_disk)) is not None:
                raise WorkerError(f"killed: {what}")

    def _read(self, fd: int) -> None:
        data = os.read(fd, CHUNK)
        if not data:
            self._open.discard(fd)
        elif fd == self._out:
            self._received += data
        else:
            self._errors = (self._errors + data)[-KEPT_ERROR_BYTES:]

    def _write(self) -> None:
        try:
            written = os.write(self._in, self._unsent[:CHUNK])
        except BrokenPipeError:
            self._open.discard(self._in)  # it has ended, or does not read: its answer decides
            return
        del self._unsent[:written]

    def _ending(self) -> str:
        """The reason why a worker closed its output."""
        try:
            status = self.popen.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "closed its output"
        return ending(status, self.errors)


def ending(status: int, errors: str) -> str:
    """An exit status in words; the launcher of a sandbox reports signals as 128 and more."""
    if "MemoryError" in errors:
        return "killed: out of memory"
    number = -status if status < 0 else status - 128
    if number in set(signal.Signals):
        name = signal.Signals(number).name
        return "killed: out of CPU time" if name == "SIGXCPU" else f"ended by {name}"
    return f"ended with status {status}"
