"""A tracker with a thread and a queue of its own, so that nothing it does can hold training up."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from groupwise.runs.folder import RunFolder


class Tracker(Protocol):
    """A service that draws curves. All its calls come from one thread, in order."""

    name: str

    def start(self, config: Mapping[str, Any], run_name: str, folder: RunFolder) -> None: ...

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Only numbers that were measured, under tracker keys."""

    def finish(self) -> None: ...


@runtime_checkable
class TakesTables(Protocol):
    """A tracker that shows tables too."""

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None: ...


Call = Callable[[Tracker], None]


class TrackerQueue:
    """Calls of one tracker, made in order by a daemon thread: the process may end although one of them hangs."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self._calls: deque[tuple[str, Call, float]] = deque()
        self._changed = threading.Condition()
        self._current: tuple[str, float, float] | None = None
        """What the thread is at, since when, and how long it may take."""
        self._error: str | None = None
        self._is_ending = False
        self._thread: threading.Thread | None = None

    def put(self, what: str, call: Call, limit_s: float) -> None:
        """Have `call` made after those before it; returns at once."""
        with self._changed:
            if self._thread is None:
                self._is_ending = False
                self._thread = threading.Thread(target=self._run, name=f"groupwise-{self.tracker.name}", daemon=True)
                self._thread.start()
            self._calls.append((what, call, limit_s))
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Until every call has been made, one has failed, or the time is over; whether every call has been made."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_idle or self._error is not None, timeout=seconds)
            return self._is_idle

    def end(self, seconds: float) -> None:
        """Wait for the calls, and let the thread go; what it has not done by then is a failure."""
        if not self.wait(seconds) and self._error is None:
            self._error = f"it had not sent everything within {seconds:g} s"
        with self._changed:
            self._is_ending, self._thread = True, None
            self._calls.clear()
            self._changed.notify_all()

    @property
    def _is_idle(self) -> bool:
        return not self._calls and self._current is None

    @property
    def failure(self) -> str | None:
        """What went wrong, if anything did."""
        current = self._current
        if self._error is None and current is not None and time.monotonic() - current[1] >= current[2]:
            return f"its {current[0]} did not end within {current[2]:g} s"
        return self._error

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                call(self.tracker)
            except BaseException as error:  # a service that is down must not stop a paid run; the run folder has it all
                self._error = f"{type(error).__name__}: {error}"
            with self._changed:
                self._current = None
                self._changed.notify_all()
                if self._error is not None:
                    return

    def _next(self) -> Call | None:
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._is_ending)
            if not self._calls:
                return None
            what, call, limit_s = self._calls.popleft()
            self._current = what, time.monotonic(), limit_s
            self._changed.notify_all()
            return call
