"""The protocol of a sandbox backend: bubblewrap, Docker, or no sandbox."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from groupwise.rewards.sandbox.limits import Limits

INSIDE = Path(__file__).parent / "inside"

BOOT = (
    "import sys\n"
    "package = type(sys)('_groupwise_inside')\n"
    "package.__path__ = [sys.argv[1]]\n"
    "sys.modules[package.__name__] = package\n"
    "from _groupwise_inside.main import main\n"
    "main()\n"
)
"""Loads `inside/` without putting a folder on the path that an answer could import from."""

FILE_NUMBER = "{file}"
"""Stands in the arguments for the number of that file."""

ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}
"""All that a worker's environment holds: nothing of the user's, threads few enough for the limit of processes."""


@dataclass(frozen=True)
class Launch:
    """A command that starts a worker."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    open_file: Callable[[], int] | None = None
    """Opens the file that the command reads by its number; called just before it starts, closed after."""
    stop: Sequence[str] | None = None
    """A command that ends the worker where killing the process does not."""
    folder: str = "/"
    """The working folder of the command."""


class Backend(Protocol):
    """A way to start workers."""

    @property
    def name(self) -> str:
        """bubblewrap, docker or none."""
        ...

    @property
    def about(self) -> str:
        """The program or image, with its version."""
        ...

    @property
    def is_isolated(self) -> bool:
        """Whether a worker is kept from files, network and other processes."""
        ...

    @property
    def has_init(self) -> bool:
        """Whether the started command waits for a first process whose end is the end of all others."""
        ...

    @property
    def counts_processes(self) -> bool:
        """Whether the limit of processes counts those of the sandbox alone."""
        ...

    def launch(self, limits: Limits, readable: Sequence[Path]) -> Launch:
        """The command of a worker that may read these files and folders besides Python itself."""
        ...


def python_command(executable: str, inside: str) -> list[str]:
    """Python without the user's settings, site-packages or compiled files of its own, running `inside/`."""
    return [executable, "-I", "-S", "-B", "-c", BOOT, inside]


def existing(paths: Sequence[Path]) -> list[Path]:
    """The paths that are there, absolute, without those that lie in another one."""
    found = sorted({path.absolute() for path in paths if path.exists()})
    return [path for path in found if not any(other in path.parents for other in found)]


def interpreter() -> Path:
    """The Python that runs, its links resolved: a virtual environment adds nothing but a path."""
    return Path(sys.executable).resolve()
