"""Functions for workers to call."""

from __future__ import annotations

import os
import sys
import time


def double(x):
    return 2 * x


def hang_on_3(x):
    if x == 3:
        time.sleep(60)
    return x


def misbehave(how):
    if how == "raise":
        raise ValueError("no good")
    if how == "exit":
        sys.exit()
    if how == "die":
        os._exit(3)
    return object() if how == "object" else None


def look():
    """What a scorer can see of the machine."""
    import socket

    try:
        socket.create_connection(("1.1.1.1", 53), 0.2)
        network = True
    except OSError:
        network = False
    return {
        "home": os.path.exists(os.path.expanduser("~root/.bashrc")),
        "network": network,
        "secret": "T0KEN" in os.environ,
    }


def leave_a_process(x):
    if os.fork() == 0:
        time.sleep(60)
    return [x, os.getppid(), os.getpid()]


def fill_memory(x):
    kept = [bytearray(b"x" * 10**7) for _ in range(10**6)]
    return len(kept)


def speak(x):
    print("noise " * 1000)
    os.write(1, b"\x00\x00\x00\x02{}")
    return x
