"""Messages over a pipe: four bytes of length, then JSON."""

from __future__ import annotations

import json
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # takes a third of the time that a worker starts in


HEADER = struct.Struct(">I")


def private_pipes() -> tuple[int, int]:
    """The pipes of the messages (in, out) under numbers of their own; 0 is empty and 1 goes where errors go."""
    inward, outward = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return inward, outward


def packed(message: Any) -> bytes:
    """The bytes of a message; `TypeError` or `ValueError` where it is not JSON."""
    data = json.dumps(message).encode("ascii")
    return HEADER.pack(len(data)) + data


def write_frame(fd: int, message: Any) -> None:
    """Write a message to a pipe that blocks."""
    rest = memoryview(packed(message))
    while rest:
        rest = rest[os.write(fd, rest) :]


def read_frame(fd: int) -> Any:
    """The next message of a pipe that blocks; `EOFError` when the other side has closed it."""
    (length,) = HEADER.unpack(_exactly(fd, HEADER.size))
    return json.loads(_exactly(fd, length))


def next_frame(fd: int) -> Any:
    """The next message; None when the other side has closed the pipe."""
    try:
        return read_frame(fd)
    except EOFError:
        return None


def _exactly(fd: int, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = os.read(fd, min(count - len(parts), 1 << 16))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
