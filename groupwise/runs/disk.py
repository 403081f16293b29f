"""Writing so that what is on disk is always whole, and saying in plain words when the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from groupwise.errors import RunError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def append(path: Path, line: bytes) -> None:
    """Append one line; when it cannot be written whole, the part that was is taken back."""
    with _plain_disk_errors(path), path.open("ab", buffering=0) as file:
        start = file.tell()
        try:
            _write_all(file.fileno(), line)
        except BaseException:
            file.truncate(start)
            raise


def replace(path: Path, content: bytes) -> None:
    """Write a file so that it exists whole or as it was."""
    part = path.with_name(f".{path.name}.part")
    try:
        with _plain_disk_errors(path):
            with part.open("wb", buffering=0) as file:
                _write_all(file.fileno(), content)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_all(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]


@contextlib.contextmanager
def _plain_disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise RunError(f'Cannot write "{path}": {error.strerror}. What was recorded before is kept.') from error
        raise RunError(
            f'No space left on the disk while writing "{path}". What was finished before is kept: '
            "free some space and resume the run."
        ) from error


def mend_last_line(path: Path) -> None:
    """Cut a line that a crash left without its end, so that the next one starts clean."""
    if not path.is_file():
        return
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
