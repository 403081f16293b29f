"""Memory and files that a worker and its descendants use, read from /proc; nothing on other systems."""

from __future__ import annotations

import os
from pathlib import Path

from groupwise.rewards.sandbox.limits import Limits

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def descendants(pid: int) -> list[int]:
    """The process and all below it, parents first; those that end meanwhile are left out."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
        except OSError:
            continue
    return found


def excess(pid: int, limits: Limits, *, has_init: bool) -> str | None:
    """The limit that the worker has passed, in words; None while it is within all."""
    pids = descendants(pid)
    used = sum(map(_resident_bytes, pids))
    if has_init and len(pids) > 1:
        blocks, files = disk_usage(Path("/proc", str(pids[1]), "root", "tmp"))
        used += blocks
        if files > limits.files:
            return f"more than {limits.files} files"
    return "out of memory" if used > limits.memory_mb << 20 else None


def _resident_bytes(pid: int) -> int:
    """Memory of a process, shared pages included; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def disk_usage(folder: Path) -> tuple[int, int]:
    """Bytes and number of files on the file system that a sandbox has at this folder, its own /tmp.

    The folder is opened once: while a sandbox sets itself up, the same path leads to one file system after another, and
    the files of ours must not be counted as those of its own.
    """
    try:
        opened = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return 0, 0  # it has not set its folders up yet, or has ended
    try:
        if os.fstat(opened).st_dev == os.stat("/tmp").st_dev:
            return 0, 0  # it still sees ours
        found = os.fstatvfs(opened)
    finally:
        os.close(opened)
    return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_files - found.f_ffree
