"""What a worker and its descendants use at the moment, read from /proc; nothing is known on other systems."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from groupwise.rewards.sandbox.limits import Limits

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def descendants(pid: int) -> Iterator[int]:
    """The process and all below it; those that end meanwhile are left out."""
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        yield parent
        try:
            tasks = os.listdir(f"/proc/{parent}/task")
            for task in tasks:
                waiting += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
        except OSError:
            continue


def resident_bytes(pid: int) -> int:
    """Memory of a process, shared pages included; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def excess(pid: int, limits: Limits) -> str | None:
    """Which limit the worker has passed, in words."""
    pids = list(descendants(pid))
    if sum(map(resident_bytes, pids)) > limits.memory_mb << 20:
        return "out of memory"
    return None
