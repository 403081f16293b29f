"""Signs of life between the ranks of a run, in the store that launched them: a rank that is gone or hangs is named.

Each rank writes its state every `BEAT_SECONDS` and reads those of the others. A rank is missed where

* it has reported an error, or has ended while another one waits for it,
* its beat has stopped (killed, stopped by a signal, a machine that is gone),
* another rank waits for it, and within a part that all ranks go through together it neither waits itself nor computes:
  a collective that one rank does not enter. Outside of such parts (a reward function, a download) a rank may take its
  time.

Processor time tells a long pass from a wait, so nothing slow is mistaken for a hang.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from groupwise.waiting import within

BEAT_SECONDS = 1.0
SILENT_SECONDS = 20.0
"""A rank whose beat has stopped for so long is gone."""
IDLE_SECONDS = 30.0
"""A rank that has not computed for so long, while another one waits for it, hangs."""
LEAVE_SECONDS = 5.0
"""How long the main thread may take to end by itself once a rank is missed."""
NEWS_SECONDS = 5.0
"""How long a rank whose connection has broken waits for the reason."""
MIN_LOAD = 0.02
"""Share of one processor below which a process waits: its own beat costs less."""


class Store(Protocol):
    """What is used of `torch.distributed.Store`."""

    def set(self, key: str, value: str) -> None: ...

    def check(self, keys: list[str]) -> bool: ...

    def get(self, key: str) -> bytes: ...


@dataclass
class Sighting:
    """What this rank has seen of another one, on its own clock."""

    state: Mapping[str, Any] = field(default_factory=dict)
    beat_at: float = 0.0
    """When its beat last moved."""
    active_at: float = 0.0
    """When it last computed, waited for other ranks, or was outside of a part that all go through together."""


class Heartbeat:
    """Beats in a thread of its own, and watches the beats of the other ranks."""

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        *,
        store_is_of_launcher: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self.rank, self.size, self._clock = store, rank, size, clock
        self.on_missed: Callable[[str], None] = lambda text: None
        """What is done with the sentence before a process ends whose main thread cannot do it."""
        self._others = {other: Sighting(beat_at=clock(), active_at=clock()) for other in range(size) if other != rank}
        self._state: dict[str, Any] = {
            "beat": 0,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "waits_for": None,
            "lockstep": None,
            "error": None,
            "has_ended": False,
        }
        self._waits_since: float | None = None
        self._holder = "The launcher" if store_is_of_launcher else "Rank 0"
        self._holds_store = rank == 0 and not store_is_of_launcher
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="groupwise-heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Inside, this rank waits for the other ranks."""
        self._waits_since = self._clock()
        self._state["waits_for"] = what
        try:
            yield
        finally:
            self._state["waits_for"] = self._waits_since = None

    @contextmanager
    def lockstep(self, what: str) -> Iterator[None]:
        """Inside, this rank waits for nothing but the other ranks."""
        before, self._state["lockstep"] = self._state["lockstep"], what
        try:
            yield
        finally:
            self._state["lockstep"] = before

    def report(self, error: BaseException) -> None:
        """Tell the other ranks what this one ends with, and keep the store, where this process holds it, until they
        have read it."""
        self._state["error"] = self._state["error"] or f"{type(error).__name__}: {error}"
        with suppress(Exception):  # the store has gone first
            self._write()
            if self._holds_store:
                self._linger()

    def _linger(self) -> None:
        end = self._clock() + 2 * NEWS_SECONDS
        while self._clock() < end and not all(self._is_told(seen.state) for seen in self._others.values()):
            time.sleep(BEAT_SECONDS / 4)
            self.look()

    def _is_told(self, state: Mapping[str, Any]) -> bool:
        """Whether a rank needs the store no more: it ends with an error, as it should, or is gone."""
        return bool(state.get("error") or state.get("has_ended")) or self._is_gone(state)

    def end(self) -> None:
        """This rank ends: nobody has to wait for it any more. One that holds the store lets its error be read."""
        self._stop.set()
        self._state["has_ended"] = True
        self._write()

    def missed(self) -> str | None:
        """A sentence about the rank that is missed, None while all are well."""
        now = self._clock()
        for other, seen in sorted(self._others.items()):
            if (why := self._why_missed(seen, now)) is not None:
                return f"Rank {other} ({seen.state.get('host', '?')}, process {seen.state.get('pid', '?')}) {why}"
        return None

    def _why_missed(self, seen: Sighting, now: float) -> str | None:
        state, waited = seen.state, 0.0 if self._waits_since is None else now - self._waits_since
        if state.get("error"):
            return f"has failed: {state['error'].rstrip('.')}."
        if state.get("has_ended"):
            return "has ended, and the others still wait for it." if waited > LEAVE_SECONDS else None
        if self._is_gone(state):
            return "is gone: its process has ended without a word (killed, or out of memory)."
        if now - seen.beat_at > SILENT_SECONDS:
            return f"has given no sign of life for {now - seen.beat_at:.0f} s: it was killed or stopped."
        if waited > IDLE_SECONDS and now - seen.active_at > IDLE_SECONDS:
            return (
                f"hangs in {state['lockstep']}: for {now - seen.active_at:.0f} s it has neither computed nor waited "
                f"for the others, which wait for {self._state['waits_for']}."
            )
        return None

    def _is_gone(self, state: Mapping[str, Any]) -> bool:
        """Whether the process of another rank on this machine is there no longer."""
        if state.get("host") != self._state["host"]:
            return False
        try:
            os.kill(state["pid"], 0)
        except ProcessLookupError:
            return True
        except OSError:  # it is there, and another user's
            return False
        return False

    def wait_for_news(self) -> str | None:
        """Which rank is missed, once a connection has broken; None where it cannot be told within a few seconds."""
        end, text = self._clock() + NEWS_SECONDS, None
        while text is None and self._clock() < end:
            time.sleep(BEAT_SECONDS / 4)
            with suppress(Exception):  # the store may be gone too
                self.look()
            text = self.missed()
        return text

    def look(self) -> None:
        """Read the states of the other ranks."""
        now = self._clock()
        for other, seen in self._others.items():
            key = _key(other)
            if self._store.check([key]):
                self._see(seen, json.loads(self._store.get(key)), now)

    @staticmethod
    def _see(seen: Sighting, state: Mapping[str, Any], now: float) -> None:
        if state["beat"] == seen.state.get("beat"):
            seen.state = state  # an error, or the end, comes between two beats
            return
        elapsed = now - seen.beat_at
        computed = state["cpu_s"] - seen.state.get("cpu_s", 0.0)
        if state["waits_for"] or not state["lockstep"] or computed > MIN_LOAD * elapsed:
            seen.active_at = now
        seen.state, seen.beat_at = state, now

    def beat(self) -> None:
        """Write a new state of this rank."""
        self._state["beat"] += 1
        self._write()

    def _write(self) -> None:
        self._store.set(_key(self.rank), json.dumps({**self._state, "cpu_s": time.process_time()}))

    def _run(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                within(SILENT_SECONDS, self._exchange, name="heartbeat")
            except Exception as error:  # the process that holds the store is gone, or stopped
                if self._is_held_up and not self._stop.is_set():
                    found = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
                    self._leave(f"{self._holder} has given no sign of life: its store does not answer ({found}).")
                return
            if (text := self.missed()) is not None:
                self._leave(text)

    @property
    def _is_held_up(self) -> bool:
        """Whether this rank cannot go on without the others."""
        return self._waits_since is not None or self._state["lockstep"] is not None

    def _exchange(self) -> None:
        self.beat()
        self.look()

    def _leave(self, text: str) -> None:
        """End this process, once its main thread has had the time to end by itself."""
        if self._stop.wait(LEAVE_SECONDS):
            return
        self.on_missed(text)
        self._kill_stopped()
        print(f"error: {text} All ranks end; the newest checkpoint is kept.", file=sys.stderr, flush=True)
        os._exit(1)

    def _kill_stopped(self) -> None:
        """A process of this machine that a signal has stopped does not end when it is asked to."""
        for seen in self._others.values():
            state = seen.state
            if state.get("host") == self._state["host"] and self._clock() - seen.beat_at > SILENT_SECONDS:
                with suppress(OSError):
                    os.kill(state["pid"], signal.SIGKILL)


def _key(rank: int) -> str:
    return f"groupwise/rank/{rank}"
