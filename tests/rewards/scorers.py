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
