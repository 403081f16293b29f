"""What `groupwise doctor` finds in a run, for the page; looked for again only after a run has grown by a tenth."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from groupwise.diagnose.compute import compute_use
from groupwise.diagnose.doctor import diagnose
from groupwise.errors import RunError
from groupwise.runs.reader import RunReader
from groupwise.watch.watched_run import WatchedRun

GROWTH = 0.1


class Findings:
    """The diagnoses of one run and what its compute bought, as plain data; made in a thread of their own.

    `latest` never waits: it returns what was found last, and starts to look where the run has moved on.
    """

    def __init__(self, run: WatchedRun) -> None:
        self._run = run
        self._found: dict[str, Any] = {"findings": [], "compute": None, "step": 0}
        self._history = -1
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def latest(self, version: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            step, is_over = version["last_step"], version["state"] != "training"
            has_grown = step >= self._found["step"] * (1 + GROWTH) + 1 or (is_over and step > self._found["step"])
            is_idle = self._thread is None or not self._thread.is_alive()
            if is_idle and step and (has_grown or version["history"] != self._history):
                self._history = version["history"]
                self._thread = threading.Thread(target=self._look, args=(step,), daemon=True)
                self._thread.start()
            return {**self._found, "is_looking": self._thread is not None and self._thread.is_alive()}

    def _look(self, step: int) -> None:
        reader = RunReader(self._run.folder)
        found = {"findings": _found(diagnose, reader) or [], "compute": _found(compute_use, reader), "step": step}
        with self._lock:
            self._found = found


def _found(look: Callable[[RunReader], Any], reader: RunReader) -> Any:
    """What is found in a run, as plain data; None where its records are damaged or are being deleted."""
    try:
        return _plain(look(reader))
    except (RunError, OSError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value) | {"lines": list(getattr(value, "lines", ()))}
    return value
