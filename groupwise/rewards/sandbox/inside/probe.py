"""Reports what a worker can see and do, as a check of its confinement."""

from __future__ import annotations

import os
from pathlib import Path

from .frames import write_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # takes a third of the time that a worker starts in


def probe(task: dict[str, Any]) -> None:
    """Answer with the user, the network interfaces, the folders of `task["hidden"]` that hold anything, the rights."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    interfaces = Path("/proc/net/dev").read_text().splitlines()  # two lines of titles, then one each
    seen = [folder for folder in task["hidden"] if os.path.isdir(folder) and task["hidden"][folder] in _listed(folder)]
    write_frame(
        1,
        {
            "uid": os.getuid(),
            "interfaces": [line.split(":")[0].strip() for line in interfaces[2:]],
            "seen": seen,
            "rights": int(status["CapEff"], 16),
            "num_processes": sum(name.isdigit() for name in os.listdir("/proc")),
        },
    )


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except PermissionError:
        return []
