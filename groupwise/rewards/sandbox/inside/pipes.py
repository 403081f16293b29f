"""Takes the message pipes away from where a program would print to and read from."""

from __future__ import annotations

import os


def private_pipes() -> tuple[int, int]:
    """The pipes of the messages (in, out) under numbers of their own; 0 is empty and 1 goes where errors go."""
    inward, outward = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return inward, outward
