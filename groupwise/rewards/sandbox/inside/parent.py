"""Ends a worker with the program that started it, where no sandbox does that."""

from __future__ import annotations

import os
import threading
import time


def end_with_parent() -> None:
    """From now on, end this process when its parent has ended, whatever it is in the middle of."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
