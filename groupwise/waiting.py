"""Waits that end: a call in a thread of its own, given up when its time is over; event loops in threads."""

from __future__ import annotations

import asyncio
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


def serve_loop(loop: asyncio.AbstractEventLoop, name: str) -> threading.Thread:
    """Run an event loop in a thread of its own, which no program waits for, until `stop_loop`."""
    thread = threading.Thread(target=_serve, args=(loop,), name=name, daemon=True)
    thread.start()
    return thread


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped; then let what is still in it end before it closes."""
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
            break
        except (SystemExit, KeyboardInterrupt):  # asyncio lets them out of the loop; whoever awaits the task gets them
            continue
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def stop_loop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Close a loop that `serve_loop` runs."""
    loop.call_soon_threadsafe(loop.stop)
    if thread is not threading.current_thread():
        thread.join(timeout=5)
