"""Entry of a worker: reads its task, binds itself by the limits in it, and does it."""

from __future__ import annotations

import importlib
import sys

from .frames import next_frame, write_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # takes a third of the time that a worker starts in


def main() -> None:
    """Report ready, then do the one task of the first message."""
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


def apply_limits(limits: dict[str, int]) -> None:
    """Set each limit, by its name in `resource` without RLIMIT_, soft and hard; lower ones that hold already stay."""
    if sys.platform == "win32":
        return
    import resource

    for name, wanted in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is None:
            continue  # macOS has no RLIMIT_AS that holds, and other systems lack one or the other
        _, hard = resource.getrlimit(kind)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (limit, limit))
