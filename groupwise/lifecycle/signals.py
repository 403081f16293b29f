"""Ctrl-C, SIGTERM and SIGHUP: the step under way is finished and saved; a second Ctrl-C or SIGTERM stops now."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from groupwise.forks import handling

_log = logging.getLogger(__name__)

_WORDS = {"SIGINT": "SIGINT (Ctrl-C)"}
_AT_ONCE = {"SIGINT": "Ctrl-C again", "SIGTERM": "SIGTERM again", "SIGHUP": "SIGTERM"}
"""What stops a run now that this signal has asked to stop."""


class Interrupted:
    """Which signal asked the run to stop, if any."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def name(self) -> str | None:
        return None if self.signal is None else signal.Signals(self.signal).name

    @property
    def exit_code(self) -> int:
        return 0 if self.signal is None else 128 + self.signal


@contextmanager
def finish_step_first(stop: Callable[[str], None]) -> Iterator[Interrupted]:
    """Inside, the first signal calls `stop` with its name, the second raises KeyboardInterrupt.

    In another thread than the main one it does nothing.
    SIGHUP is never a second one: it comes twice where a terminal is closed.
    """
    interrupted = Interrupted()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def handle(number: int, _: FrameType | None) -> None:
        if interrupted.signal is None:
            interrupted.signal = number
            name = signal.Signals(number).name
            stop(_WORDS.get(name, name))
            with suppress(RuntimeError):  # it came in the middle of a print, which cannot be entered twice
                _log.info(f"Stopping after this step, with a checkpoint. {_AT_ONCE[name]} stops now.")
        elif number != _hangup():
            raise KeyboardInterrupt

    with handling(_signals(), handle):
        yield interrupted


@contextmanager
def stopped_by_the_leader() -> Iterator[None]:
    """Inside, on a rank above 0, the first signal does nothing: rank 0 gets it too and ends the run for all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if seen and number != _hangup():
            raise KeyboardInterrupt
        seen.append(number)

    with handling(_signals(), handle):
        yield


def _signals() -> list[int]:
    """Those that ask a run to stop. A SIGHUP that is ignored stays so: that is what `nohup` is for."""
    hangup = _hangup()
    is_heard = hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([hangup] if hangup is not None and is_heard else [])]


def _hangup() -> int | None:
    """SIGHUP, where the system has it."""
    return getattr(signal, "SIGHUP", None)
