"""The bubblewrap backend: own namespaces, no network, a read-only root that holds the system and Python alone.

Started by root, the worker becomes a user that nobody else is before it runs anything: a limit of processes does not
bind root, whatever `--uid` is.
"""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from groupwise.rewards.sandbox.backend import (
    ENVIRONMENT,
    FILE_NUMBER,
    INSIDE,
    Launch,
    existing,
    interpreter,
    python_command,
)
from groupwise.rewards.sandbox.limits import Limits
from groupwise.rewards.sandbox.seccomp import filter_file, filter_program

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
FIRST_UID, NUM_UIDS = 61184, 4336
"""systemd's range for users that live as long as a service: no account of a person or a program lies in it."""

_numbers = itertools.count(os.getpid())


@dataclass(frozen=True)
class Bubblewrap:
    """Starts workers with `bwrap` 0.7 or newer."""

    name: ClassVar[str] = "bubblewrap"
    is_isolated: ClassVar[bool] = True
    has_init: ClassVar[bool] = True
    counts_processes: ClassVar[bool] = True

    is_root: bool = False
    program: str = "bwrap"

    @classmethod
    def here(cls, program: str) -> Bubblewrap:
        """For the user that this process runs as."""
        return cls(is_root=os.geteuid() == 0, program=program)

    @functools.cached_property
    def about(self) -> str:
        """Version and path of the program: `bubblewrap 0.11.0, /usr/bin/bwrap`."""
        done = subprocess.run([self.program, "--version"], capture_output=True, text=True, timeout=10)
        return f"{done.stdout.strip()}, {self.program}"

    def launch(self, limits: Limits, readable: Sequence[Path]) -> Launch:
        has_filter = filter_program() is not None
        arguments = [
            self.program,
            *_namespaces(self.is_root),
            *_files(limits, readable),
            *(["--seccomp", FILE_NUMBER] if has_filter else []),
            "--",
            *(_other_user() if self.is_root else []),
            *python_command(str(interpreter()), str(INSIDE)),
        ]
        return Launch(arguments, ENVIRONMENT, filter_file if has_filter else None)


def _namespaces(is_root: bool) -> list[str]:
    """Root needs no user namespace, and without one its worker is bound by what binds every other user."""
    kinds = ["pid", "net", "ipc", "uts", "cgroup-try", *([] if is_root else ["user"])]
    needed_to_become_another = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if is_root else []
    return [
        *(f"--unshare-{kind}" for kind in kinds),
        *("--hostname", "sandbox", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *needed_to_become_another,
    ]


def _other_user() -> list[str]:
    uid = str(FIRST_UID + next(_numbers) % NUM_UIDS)
    return ["/usr/bin/setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--inh-caps=-all"]


def _files(limits: Limits, readable: Sequence[Path]) -> list[str]:
    prefix = interpreter().parent.parent
    shown = [path for path in existing([prefix, INSIDE, *readable]) if not path.is_relative_to("/usr")]
    return [
        *_system(),
        # Before what is shown: Python or a project may lie under /tmp.
        *("--proc", "/proc", "--dev", "/dev"),
        # The first process inside is bubblewrap's, and an ordinary user's worker runs as the same user: it could open
        # that one's memory and pipes.
        *("--perms", "0555", "--tmpfs", "/proc/1"),
        *("--perms", "1777", "--size", str(1 << 20), "--tmpfs", "/dev/shm"),
        *("--perms", "1777", "--size", str(limits.disk_mb << 20), "--tmpfs", "/tmp"),
        *(part for folder in _folders_above(shown) for part in ("--perms", "0755", "--dir", str(folder))),
        *(part for path in shown for part in ("--ro-bind", str(path), str(path))),
        *("--remount-ro", "/proc/1", "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"),
    ]


def _system() -> Iterator[str]:
    """The system's own folders; a link among them stays one."""
    for path in map(Path, SYSTEM):
        if path.is_symlink():
            yield from ("--symlink", os.readlink(path), str(path))
        elif path.is_dir():
            yield from ("--ro-bind", str(path), str(path))
    for name in SYSTEM_FILES:
        yield from ("--ro-bind-try", name, name)


def _folders_above(paths: Sequence[Path]) -> list[Path]:
    """Made readable for everyone: bubblewrap would make them for root alone."""
    above = {parent for path in paths for parent in path.parents if parent != Path("/")}
    return sorted(above - {Path(folder) for folder in (*SYSTEM, "/tmp", "/dev", "/dev/shm", "/proc")} - set(paths))
