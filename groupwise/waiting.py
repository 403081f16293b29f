"""Waits that end: a call in a thread of its own, given up when its time is over."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T], *, name: str) -> T:
    """What `call` returns, or the exception it raises; `TimeoutError` when it has not ended within `seconds`.

    A call that hangs cannot be stopped from outside: its thread is left behind, and the process may end without it.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # it is raised again where it is waited for
            answers.put((None, error))

    threading.Thread(target=run, name=f"groupwise-{name}", daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"{name} did not end within {seconds:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]
