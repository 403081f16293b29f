"""A time limit for one call, in the thread it belongs to: the call is interrupted when the limit has passed.

Python code in the main thread is interrupted by a signal: loops, sleeps and waits for sockets or locks all end. A long
call into C cannot be; then the program ends, since nothing else in it can go on.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from groupwise.forks import handling
from groupwise.waiting import within

T = TypeVar("T")

SIGNAL: int = signal.SIGRTMIN + 11 if hasattr(signal, "SIGRTMIN") else getattr(signal, "SIGUSR2", 0)
"""One that schedulers and libraries leave alone, where the system has so many; 0 where it has no signals."""

GRACE_S = 30.0
"""Seconds between the first signal and the end of the program."""
EXIT_STATUS = 70
"""EX_SOFTWARE of sysexits.h."""


class CallTimeoutError(Exception):
    """A function has not returned in time; where it could be stopped, its traceback shows where it was."""

    def __init__(self, message: str, *, is_stopped: bool = True) -> None:
        super().__init__(message)
        self.is_stopped = is_stopped


class _InterruptError(BaseException):
    """Raised inside the function: not an Exception, so that the function does not take it for one of its own."""


def call_within(seconds: float, call: Callable[[], T], what: str) -> T:
    """The value of `call`; `CallTimeoutError` when it takes longer. `what` names it where the program has to end."""
    if threading.current_thread() is not threading.main_thread() or not SIGNAL:
        try:
            return within(seconds, call, name=what)
        except TimeoutError as error:
            raise CallTimeoutError(str(error), is_stopped=False) from None
    return _Watched(seconds, what).run(call)


class _Watched:
    """One call in the main thread, with a thread beside it that counts the seconds."""

    def __init__(self, seconds: float, what: str) -> None:
        self.seconds, self.what = seconds, what
        self.main = threading.get_ident()
        self.is_late = False
        self.done = threading.Event()

    def run(self, call: Callable[[], T]) -> T:
        with handling([SIGNAL], self._interrupt):
            thread = threading.Thread(target=self._watch, name="groupwise-time-limit", daemon=True)
            thread.start()
            try:
                try:
                    return call()
                finally:
                    self.done.set()
            except _InterruptError as error:
                self.done.set()
                late = CallTimeoutError(f"no answer within {self.seconds:g} s")
                raise late.with_traceback(error.__traceback__) from None
            finally:
                thread.join()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.is_late and not self.done.is_set():
            raise _InterruptError

    def _watch(self) -> None:
        if self.done.wait(self.seconds):
            return
        self.is_late = True
        for _ in range(int(GRACE_S)):  # again each second: the function may catch everything
            signal.pthread_kill(self.main, SIGNAL)
            if self.done.wait(1.0):
                return
        why = (
            f"groupwise: {self.what} did not return within {self.seconds:g} s and cannot be interrupted, so the "
            "program ends here. The run can go on from its last checkpoint. With isolated: true a reward function "
            "runs in a process of its own, which can be ended."
        )
        try:
            print(why, file=sys.stderr, flush=True)
        finally:  # whoever reads it
            os._exit(EXIT_STATUS)
