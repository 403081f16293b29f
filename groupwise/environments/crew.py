"""Calls of environments side by side, each with a deadline; their answers in the order of the calls."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import random
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any

from groupwise.errors import EnvironmentFailedError, words_of
from groupwise.waiting import serve_loop, stop_loop


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call gave: a value, or the exception that it raised."""

    value: Any
    seconds: float
    error: BaseException | None = None

    def result(self) -> Any:
        """The value, or the exception again; one that would end the program becomes an `EnvironmentFailedError`."""
        if self.error is None:
            return self.value
        if isinstance(self.error, Exception):
            raise self.error
        raise EnvironmentFailedError(f"{type(self.error).__name__}: {words_of(self.error)}") from self.error


class _Loop:
    """The event loop of all environments and tools of a process, made on first use.

    There is one, because clients that an environment keeps belong to the loop they were made in, and training,
    evaluation and tools share the environments.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def running(self) -> asyncio.AbstractEventLoop:
        """The loop, in a thread of its own; a forked child, which has the loop and not its thread, makes another."""
        with self._lock:
            if self._loop is None or self._owner != os.getpid():
                self._loop, self._owner = asyncio.new_event_loop(), os.getpid()
                weakref.finalize(self, stop_loop, self._loop, serve_loop(self._loop, "groupwise-environments"))
            return self._loop


_LOOP = _Loop()


def event_loop() -> asyncio.AbstractEventLoop:
    """The loop in which everything of environments and tools that is async runs."""
    return _LOOP.running()


class Crew:
    """Runs each call in a thread of its own, and what is async in one event loop for all.

    The threads follow the sandbox of the run that calls. A call that hangs cannot be stopped: its thread is left
    behind, and the process may end without it.
    """

    def run(self, calls: Sequence[Callable[[], Any]], timeout_s: float) -> list[Answer]:
        """The answers, in order; a `TimeoutError` for a call that has not ended `timeout_s` after they began."""
        start = perf_counter()
        waiting = [self._begin(call, timeout_s) for call in calls]
        return [self._end(queue, start, timeout_s) for queue in waiting]

    def _begin(self, call: Callable[[], Any], timeout_s: float) -> SimpleQueue[Answer]:
        queue: SimpleQueue[Answer] = SimpleQueue()

        def work() -> None:
            start = perf_counter()
            try:
                value = call()
                if inspect.isawaitable(value):
                    value = self._await(value, timeout_s)
                queue.put(Answer(value, perf_counter() - start))
            except BaseException as error:  # `sys.exit` in a user's code ends no run
                queue.put(Answer(None, perf_counter() - start, error))

        target = functools.partial(copy_context().run, work)
        threading.Thread(target=target, name="groupwise-environment", daemon=True).start()
        return queue

    def _end(self, queue: SimpleQueue[Answer], start: float, timeout_s: float) -> Answer:
        try:
            return queue.get(timeout=max(start + timeout_s - perf_counter(), 0.001))
        except Empty:
            return Answer(None, perf_counter() - start, TimeoutError(f"no answer within {timeout_s:g} s"))

    def _await(self, value: Any, timeout_s: float) -> Any:
        async def wait() -> Any:
            return await asyncio.wait_for(value, timeout_s)

        return asyncio.run_coroutine_threadsafe(wait(), event_loop()).result()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, Python's and numpy's global generators begin at `seed`; afterwards they go on where they were."""
    numpy = sys.modules.get("numpy")
    before = random.getstate()
    of_numpy = None if numpy is None else numpy.random.get_state()
    random.seed(seed)
    if numpy is not None:
        numpy.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
        if numpy is not None:
            numpy.random.set_state(of_numpy)
