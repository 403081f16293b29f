"""Resource limits of a sandboxed process."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one sandbox, all its processes together unless noted."""

    memory_mb: int = 1024
    processes: int = 16
    """Threads count as processes."""
    open_files: int = 64
    """Of one process."""
    disk_mb: int = 64
    """Files under /tmp, which live in memory; a single one may be as large."""
    files: int = 10_000
    """Number of files under /tmp."""
    output_bytes: int = 1 << 20
    """Printed output, or one returned value."""

    def of_a_process(self, cpu_s: float, *, count_processes: bool = True) -> dict[str, int]:
        """The limits of the operating system, by their names without RLIMIT_."""
        cpu = math.ceil(cpu_s) + 1
        limits = {
            "AS": self.memory_mb << 20,
            "CPU": cpu,
            "NOFILE": self.open_files,
            "FSIZE": self.disk_mb << 20,
            "CORE": 0,
            "MEMLOCK": 0,
            "MSGQUEUE": 0,
        }
        return {**limits, "NPROC": self.processes} if count_processes else limits
