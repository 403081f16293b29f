"""Clean-up in forked children: signal handlers, locks and redirected output that a child must not inherit.

A forked child is a copy of the whole program, with everything that the run has set up for itself. Rewards fork
(`multiprocessing`, `datasets.map`, sandboxes of other packages), and their children have to live and die as they do
outside of a run.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], None]

_undo: list[Callable[[], None]] = []
"""What the next child does first, the last one before the others."""

_here = threading.local()


@contextmanager
def not_in_children(undo: Callable[[], None]) -> Iterator[None]:
    """Inside, every forked child calls `undo` before anything else."""
    _undo.append(undo)
    try:
        yield
    finally:
        _undo.remove(undo)


@contextmanager
def handling(numbers: Collection[int], handler: Handler) -> Iterator[None]:
    """Inside, `handler` takes these signals in this process; forked children have the handlers of before.

    A handler that was not set by Python could not be put back, so it stays. Main thread only.
    """
    owner = os.getpid()

    def take(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            handler(number, frame)
        else:  # another handler, set since, calls this one in a child
            _as_before(previous[number], number, frame)

    def restore() -> None:
        for number, before in previous.items():
            if signal.getsignal(number) is take:
                signal.signal(number, before)

    previous = {n: signal.signal(n, take) for n in numbers if signal.getsignal(n) is not None}
    try:
        with not_in_children(restore):
            yield
    finally:
        restore()


def _as_before(before: Any, number: int, frame: FrameType | None) -> None:
    """What the handler of before does about a signal."""
    if callable(before):
        before(number, frame)
    elif before is signal.SIG_DFL:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _hold_signals() -> None:
    """Before a fork: a signal that reaches the child before its handlers are put back would be lost."""
    _here.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()) if _undo else None


def _let_signals_go() -> None:
    if (mask := getattr(_here, "mask", None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _begin_as_a_child() -> None:
    try:
        for undo in reversed(_undo):
            undo()
    finally:
        _let_signals_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals_go, after_in_child=_begin_as_a_child)
