"""Ctrl-C and SIGTERM: the step under way is finished and saved; a second Ctrl-C stops now."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


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
def finish_step_first(stop: Callable[[], None], notify: Callable[[str], None]) -> Iterator[Interrupted]:
    """Inside, the first signal calls `stop`, the second raises KeyboardInterrupt. Main thread only; else a no-op."""
    interrupted = Interrupted()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def handle(number: int, _: FrameType | None) -> None:
        if interrupted.signal is not None:
            raise KeyboardInterrupt
        interrupted.signal = number
        notify("Stopping after this step, with a checkpoint. Ctrl-C again stops now.")
        stop()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
