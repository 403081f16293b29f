"""Entry of a worker: reads its task, binds itself by the limits in it, and does it."""

from __future__ import annotations

import importlib
import sys

from .frames import next_frame, write_frame
from .limits import apply_limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # takes a third of the time that a worker starts in


def main() -> None:
    """Say that it is there, then serve the one task that stands in the first message."""
    write_frame(1, {"ready": True})
    task: dict[str, Any] | None = next_frame(0)
    if task is None:
        return  # never used
    sys.path[:] = [*sys.path, *(folder for folder in task["path"] if folder not in sys.path)]
    apply_limits(task["limits"])
    if task["ends_with_parent"]:
        importlib.import_module(".parent", __package__).end_with_parent()
    kind = task["task"]
    doing = importlib.import_module(f".{kind}", __package__)
    getattr(doing, kind)(task)
