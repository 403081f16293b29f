"""Atomic writes, and errors of the disk as one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from groupwise.errors import RunError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DiskFullError(RunError):
    """There is no room for what was to be written."""


def append(path: Path, line: bytes) -> None:
    """Append one line; when it cannot be written whole, the part that was is taken back."""
    with plain_errors(path, len(line)), path.open("ab", buffering=0) as file:
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
        with plain_errors(path, len(content)):
            with part.open("wb", buffering=0) as file:
                _write_all(file.fileno(), content)
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):  # a folder that has become read-only: the reason is on its way already
            part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk and would survive a power cut."""
    with plain_errors(path, 0):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def swap_in(scratch: Path, target: Path) -> None:
    """Give a finished folder its name. What stood there goes whole, never half."""
    aside = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
    scratch.rename(target)
    sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def whole_folder(target: Path, num_bytes: int) -> Iterator[Path]:
    """A folder to write `target` into, of `num_bytes` or so: it takes its place whole, or not at all.

    Raises:
        RunError: the disk refuses; what stood there before still does.
    """
    scratch = target.with_name(f".{target.name}.tmp")
    with plain_errors(target, num_bytes):
        shutil.rmtree(scratch, ignore_errors=True)
        if free_bytes(target) < num_bytes:
            raise DiskFullError(no_space(target, num_bytes))
        scratch.mkdir(parents=True)
        try:
            yield scratch
            swap_in(scratch, target)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise


def remove(folder: Path) -> None:
    """Delete a folder so that it is never there in part under its own name."""
    aside = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)


def free_bytes(path: Path) -> int:
    """Room on the disk that holds `path`, or will."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


@contextlib.contextmanager
def plain_errors(path: Path, num_bytes: int) -> Iterator[None]:
    """Inside, `num_bytes` are written to `path`; what the disk has against it becomes a sentence.

    Raises:
        DiskFullError: with the number of bytes that are missing, where the file system reports it.
        RunError: anything else.
    """
    try:
        yield
    except Exception as error:
        number = _errno(error)
        if number is None:
            raise
        if number not in _FULL:
            raise RunError(
                f'Cannot write "{path}": {os.strerror(number)}. What was recorded before is kept.'
            ) from error
        raise DiskFullError(no_space(path, num_bytes)) from error


def no_space(path: Path, num_bytes: int) -> str:
    """The sentence for a full disk."""
    missing = num_bytes - free_bytes(path)
    amount = f"{missing:,} bytes more are needed" if missing > 0 else f"{num_bytes:,} bytes were refused"
    return (
        f'No space left on the disk while writing "{path}"{f": {amount}" if num_bytes else ""}. What was finished '
        "before is kept: free some space and resume the run."
    )


def _errno(error: Exception) -> int | None:
    """The system's number of an error, also of one that safetensors wraps in words of its own."""
    if isinstance(error, OSError):
        return error.errno
    found = str(error).rpartition("(os error ")[2].partition(")")[0]
    return int(found) if type(error).__name__ == "SafetensorError" and found.isdigit() else None


def _write_all(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]


def mend_last_line(path: Path) -> None:
    """Cut a line that a crash left without its end, so that the next one starts clean."""
    if not path.is_file():
        return
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
