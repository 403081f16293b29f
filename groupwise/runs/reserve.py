"""Room that is held on the disk for the next checkpoint, so that records filling the disk cannot take it away.

It asks for no more than checkpoints do anyway: a new one is whole before the oldest is deleted.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Reserve:
    """A file of a checkpoint's size, released just before one is written and taken again after."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self, num_bytes: int) -> bool:
        """Hold that much; False where the disk has not got it. Systems that cannot allocate hold nothing."""
        if not hasattr(os, "posix_fallocate"):
            return True
        try:
            with self.path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(num_bytes, 1))
        except OSError:
            self.release()
            return False
        return True

    def release(self) -> None:
        with contextlib.suppress(OSError):  # a folder that may not be written any more keeps its file
            self.path.unlink(missing_ok=True)
