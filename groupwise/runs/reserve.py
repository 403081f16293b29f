"""Reserves room on the disk for the next checkpoint, so that records filling the disk cannot take it away.

It takes no more room than checkpoints do anyway: a new one is whole before the oldest is deleted.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from pathlib import Path

_CANNOT = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""Error numbers of a file system without allocation."""


class Reserve:
    """A file of a checkpoint's size, released just before one is written and taken again after."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self, num_bytes: int) -> bool:
        """Hold that much; False where the disk has not got it. Where nothing can be allocated, nothing is held."""
        try:
            with self.path.open("wb") as file:
                _allocate(file.fileno(), max(num_bytes, 1))
        except OSError:
            self.release()
            return False
        return True

    def release(self) -> None:
        with contextlib.suppress(OSError):  # a folder that may not be written any more keeps its file
            self.path.unlink(missing_ok=True)


def _allocate(fd: int, num_bytes: int) -> None:
    """The system call itself: `os.posix_fallocate` writes every block where a file system cannot allocate."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(num_bytes)) != 0:
        number = ctypes.get_errno()
        if number not in _CANNOT:
            raise OSError(number, os.strerror(number))
