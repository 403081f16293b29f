"""The Docker backend: a container without network and with the same limits, where bubblewrap does not work."""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from groupwise.rewards.sandbox.backend import BOOT, ENVIRONMENT, INSIDE, Launch, existing
from groupwise.rewards.sandbox.limits import Limits

IMAGE = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
"""Of this Python's own version, so that the packages installed here can be imported there."""

_INSIDE = "/groupwise/inside"


@dataclass(frozen=True)
class Docker:
    """Starts workers with `docker run`; the image has to be there already, since nothing here waits for a download."""

    name: ClassVar[str] = "docker"
    is_isolated: ClassVar[bool] = True
    has_init: ClassVar[bool] = False
    counts_processes: ClassVar[bool] = False
    """The container counts them (`--pids-limit`)."""

    image: str = IMAGE
    environment: dict[str, str] = field(default_factory=dict)
    """Variables by which the client finds its daemon (DOCKER_HOST and the like)."""

    @property
    def about(self) -> str:
        return self.image

    def launch(self, limits: Limits, readable: Sequence[Path]) -> Launch:
        program = shutil.which("docker") or "docker"
        name = f"groupwise-{secrets.token_hex(8)}"
        shown = [part for path in existing(readable) for part in ("--volume", f"{path}:{path}:ro")]
        memory = f"{limits.memory_mb}m"
        arguments = [
            *(program, "run", "--rm", "--interactive", "--init", "--name", name, "--pull", "never"),
            *("--network", "none", "--read-only", "--user", "65534:65534", "--cap-drop", "ALL"),
            *("--security-opt", "no-new-privileges", "--ipc", "none", "--workdir", "/tmp"),
            *("--memory", memory, "--memory-swap", memory, "--pids-limit", str(limits.processes + 2)),
            *("--ulimit", f"nofile={limits.open_files}", "--ulimit", "core=0"),
            *("--tmpfs", f"/tmp:rw,mode=1777,size={limits.disk_mb}m,nr_inodes={limits.files}"),
            *(part for key, value in ENVIRONMENT.items() for part in ("--env", f"{key}={value}")),
            *("--volume", f"{INSIDE}:{_INSIDE}:ro", *shown, self.image),
            *("python3", "-I", "-S", "-B", "-c", BOOT, _INSIDE),
        ]
        stop = (program, "kill", name)
        return Launch(arguments, {"PATH": ENVIRONMENT["PATH"], **self.environment}, stop=stop)
