"""Output that outlives its reader: `| head`, a terminal that is closed, a disk that is full."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class _Lasting(io.FileIO):
    """A file number that takes everything: what it cannot write is dropped."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                lead_nowhere(self)
            return len(memoryview(data).cast("B"))


def lead_nowhere(stream: Any) -> None:
    """Let a stream whose reader has gone take what it still holds, and what comes, without an error."""
    with suppress(OSError, ValueError, AttributeError):  # a stream of Python's own has no file number
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def lasting(stream: TextIO | None) -> TextIO:
    """A stream to the same file that never fails; the stream itself where it is no file of the system's."""
    if stream is None:  # closed before the program began
        return open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, io.FileIO) or isinstance(raw, _Lasting):
        return stream
    try:
        stream.flush()
    except OSError:
        lead_nowhere(stream)
    twin = io.BufferedWriter(_Lasting(raw.fileno(), "wb", closefd=False))
    # Half a character, or one that a narrow encoding lacks, is no reason to fail either.
    return io.TextIOWrapper(twin, encoding=stream.encoding, errors="backslashreplace", line_buffering=True)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Inside, nothing that prints to standard output or standard error fails for want of a reader."""
    before = sys.stdout, sys.stderr
    inside = lasting(sys.stdout), lasting(sys.stderr)
    sys.stdout, sys.stderr = inside
    try:
        yield
    finally:
        for stream in inside:
            Stream(stream).flush()
        if (sys.stdout, sys.stderr) == inside:
            sys.stdout, sys.stderr = before


class Stream:
    """Standard output, or what stands in its place. What cannot be written is lost, and nothing is written after it.

    `stream` needs a method `write` alone: editors, services and loggers put such objects there, and services None.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        ask = getattr(self._stream, "isatty", None)
        return not getattr(self._stream, "closed", False) and ask is not None and bool(ask())

    def write(self, text: str) -> int:
        """What the stream's encoding lacks becomes a question mark."""
        self._attempt("write", text.encode(self.encoding, "replace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        self._attempt("flush")

    def _attempt(self, name: str, *arguments: str) -> None:
        method = getattr(self._stream, name, None)
        if method is None:
            return
        try:
            method(*arguments)
        except (OSError, ValueError):  # the reader has gone (`| head`), the log's disk is full, somebody has closed it
            lead_nowhere(self._stream)
            self._stream = None
