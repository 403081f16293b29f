"""Calls reward functions: the asynchronous ones together in one event loop, the others one after another."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from groupwise.errors import GroupwiseError

Returned = tuple[Any, float]
"""What a function returned, and the seconds it took."""


@dataclass(frozen=True)
class Call:
    """One function with its keywords."""

    function: Callable[..., Any]
    keywords: Mapping[str, Any]
    explain: Callable[[Exception], Exception]
    """Turns an exception of the function into the error that is raised instead."""

    @property
    def is_async(self) -> bool:
        """Whether calling it only starts it: an `async def`, or an object whose `__call__` is one."""
        inner = getattr(self.function, "__call__", None)  # noqa: B004
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(inner)

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except GroupwiseError:
            raise
        except Exception as error:
            raise self.explain(error) from error


class Caller:
    """Runs calls. The event loop starts with the first asynchronous one and lives as long as this object.

    One loop for the whole run, because clients and locks that a function keeps belong to the loop they were made in; a
    thread of its own, because a notebook already runs one in the main thread.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, calls: Sequence[Call]) -> list[Returned]:
        """What each call returned and how long it took, in their order."""
        running: dict[int, Future[Returned]] = {}
        done: dict[int, Returned] = {}
        try:
            # Asynchronous ones first: they wait for their servers while the others compute.
            for index, call in sorted(enumerate(calls), key=lambda item: not item[1].is_async):
                start = time.perf_counter()
                with call.explained():
                    value = call.function(**call.keywords)
                if inspect.isawaitable(value):
                    running[index] = self._submit(value)
                else:
                    done[index] = value, time.perf_counter() - start
            for index, future in running.items():
                with calls[index].explained():
                    done[index] = future.result()
        finally:
            for future in running.values():
                future.cancel()
        return [done[index] for index in range(len(calls))]

    def _submit(self, value: Awaitable[Any]) -> Future[Returned]:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_serve, args=(self._loop,), name="groupwise-rewards", daemon=True)
            thread.start()
            weakref.finalize(self, _stop, self._loop, thread)
        return asyncio.run_coroutine_threadsafe(_timed(value), self._loop)


async def _timed(value: Awaitable[Any]) -> Returned:
    start = time.perf_counter()
    return await value, time.perf_counter() - start


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped; then let what is still in it end before it closes."""
    asyncio.set_event_loop(loop)
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join(timeout=5)
