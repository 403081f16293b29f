"""Run-folder input and output, and live progress. No torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groupwise.runs.folder import SCHEMA_VERSION, RunFolder, create, open_run
    from groupwise.runs.metrics import METRICS, Metric, unknown_keys
    from groupwise.runs.reader import RunReader
    from groupwise.runs.screen import Screen, make_screen
    from groupwise.runs.token_record import TokenRecord, read_token_record
    from groupwise.runs.tracker_queue import Tracker
    from groupwise.runs.trackers import Trackers, open_trackers
    from groupwise.runs.writer import RunWriter

_HOMES = {
    "SCHEMA_VERSION": "folder",
    "RunFolder": "folder",
    "create": "folder",
    "open_run": "folder",
    "RunWriter": "writer",
    "RunReader": "reader",
    "METRICS": "metrics",
    "Metric": "metrics",
    "unknown_keys": "metrics",
    "Screen": "screen",
    "make_screen": "screen",
    "TokenRecord": "token_record",
    "read_token_record": "token_record",
    "Tracker": "tracker_queue",
    "Trackers": "trackers",
    "open_trackers": "trackers",
}

__all__ = [
    "METRICS",
    "SCHEMA_VERSION",
    "Metric",
    "RunFolder",
    "RunReader",
    "RunWriter",
    "Screen",
    "TokenRecord",
    "Tracker",
    "Trackers",
    "create",
    "make_screen",
    "open_run",
    "open_trackers",
    "read_token_record",
    "unknown_keys",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'groupwise.runs' has no attribute {name!r}")
    return getattr(import_module(f"groupwise.runs.{_HOMES[name]}"), name)
