"""The backend without a sandbox: a process with limits of time and size and the rights of the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from groupwise.rewards.sandbox.backend import ENVIRONMENT, INSIDE, Launch, interpreter, python_command
from groupwise.rewards.sandbox.limits import Limits


@dataclass(frozen=True)
class Unconfined:
    """Starts workers as ordinary processes."""

    name: ClassVar[str] = "none"
    is_isolated: ClassVar[bool] = False
    has_init: ClassVar[bool] = False
    about: ClassVar[str] = ""
    counts_processes: ClassVar[bool] = False
    """The system counts all processes of the user, so a limit would refuse whoever has many already."""

    def launch(self, limits: Limits, readable: Sequence[Path]) -> Launch:
        return Launch(python_command(str(interpreter()), str(INSIDE)), ENVIRONMENT)
