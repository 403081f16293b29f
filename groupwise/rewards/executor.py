"""Calls reward functions: the asynchronous ones together in one event loop, the others one after another.

Each call has a time limit. One that exceeds it is interrupted, or abandoned where it cannot be.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from groupwise.errors import GroupwiseError, RewardError
from groupwise.rewards.interrupt import CallTimeoutError, call_within
from groupwise.waiting import serve_loop, stop_loop

Returned = tuple[Any, float]
"""The value that a function returned, and the seconds it took."""

LISTENS_S = 2.0
"""Seconds in which an event loop that is not stuck answers."""


@dataclass(frozen=True)
class RewardCall:
    """One function with its keywords."""

    function: Callable[..., Any]
    keywords: Mapping[str, Any]
    explain: Callable[[BaseException], Exception]
    """Turns an exception of the function into the error that is raised instead."""
    name: str = "reward function"
    timeout_s: float = 0.0
    """Seconds it may take; 0 sets no limit."""
    instead: Callable[[RewardError], Any] | None = None
    """Makes the value of a failed call; None raises the error."""

    @property
    def is_async(self) -> bool:
        """Whether calling it only starts it: an `async def`, or an object whose `__call__` is one."""
        inner = getattr(self.function, "__call__", None)  # noqa: B004
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(inner)

    def started(self) -> Returned:
        """The value of calling it, which may have to be awaited."""
        start = time.perf_counter()
        call = functools.partial(self.function, **self.keywords)
        value = call_within(self.timeout_s, call, self.name) if self.timeout_s else call()
        return value, time.perf_counter() - start

    def awaited(self, future: Future[Returned], start: float) -> Returned:
        """The value of the coroutine that was started at `start`, within the time that is left of its limit."""
        left = max(0.0, self.timeout_s - (time.perf_counter() - start)) if self.timeout_s else None
        if not concurrent.futures.wait([future], left).done:
            future.cancel()
            raise CallTimeoutError(f"no answer within {self.timeout_s:g} s")
        error = future.exception()
        if error is not None and not isinstance(error, Exception):  # raised in another thread, so no Ctrl-C
            raise self.explain(error) from error
        return future.result()

    def attempt(self, action: Callable[[], Returned]) -> Returned:
        """The value of the action; where it fails, the value of `instead`, or the error in words.

        `sys.exit` and other exceptions that end programs are failures of the function: only Ctrl-C is the user's wish.
        In a child that the function has forked they end the child.
        """
        start, owner = time.perf_counter(), os.getpid()
        try:
            try:
                return action()
            except (GroupwiseError, KeyboardInterrupt):
                raise
            except BaseException as error:
                if os.getpid() != owner:
                    raise
                raise self.explain(error) from error
        except RewardError as error:
            if self.instead is None:
                raise
            return self.instead(error), time.perf_counter() - start


class RewardExecutor:
    """Runs calls. The event loop starts with the first asynchronous one and lives as long as this object.

    One loop for the whole run, because clients and locks that a function keeps belong to the loop they were made in; a
    thread of its own, because a notebook already runs one in the main thread.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner = 0

    def run(self, calls: Sequence[RewardCall]) -> list[Returned]:
        """The value of each call and its seconds, in the order of the calls."""
        running: dict[int, tuple[Future[Returned], float]] = {}
        done: dict[int, Returned] = {}
        try:
            # Asynchronous ones first: they wait for their servers while the others compute.
            for index, call in sorted(enumerate(calls), key=lambda item: not item[1].is_async):
                start = time.perf_counter()
                done[index] = value, _ = call.attempt(call.started)
                if inspect.isawaitable(value):
                    running[index] = self._submit(value), start
            for index, (future, start) in running.items():
                done[index] = calls[index].attempt(functools.partial(calls[index].awaited, future, start))
        finally:
            for future, _ in running.values():
                future.cancel()
            if any(not future.done() or future.cancelled() for future, _ in running.values()):
                self._leave_stuck_loop()
        return [done[index] for index in range(len(calls))]

    def _submit(self, value: Awaitable[Any]) -> Future[Returned]:
        if self._loop is None or self._owner != os.getpid():  # a forked child has the loop, and not its thread
            self._loop, self._owner = asyncio.new_event_loop(), os.getpid()
            weakref.finalize(self, stop_loop, self._loop, serve_loop(self._loop, "groupwise-rewards"))
        return asyncio.run_coroutine_threadsafe(_timed(value), self._loop)

    def _leave_stuck_loop(self) -> None:
        """Start the next coroutine in a new loop where this one waits in a function that does not await."""
        assert self._loop is not None
        listens = threading.Event()
        self._loop.call_soon_threadsafe(listens.set)
        if not listens.wait(LISTENS_S):
            self._loop = None


async def _timed(value: Awaitable[Any]) -> Returned:
    start = time.perf_counter()
    return await value, time.perf_counter() - start
