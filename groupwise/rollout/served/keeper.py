"""Runs a command and ends it, with everything that it has started, when whoever started this ends: killed too.

Run as a program by `groupwise serve`, which holds the other end of standard input. Standard library alone, no imports
of ours: it starts at once and outlives an environment that is changed under it.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 10.0


def main() -> None:
    """Run the command of the arguments; the exit code is its own."""
    child = subprocess.Popen(sys.argv[1:], start_new_session=True, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_parent, args=(child.pid,), daemon=True).start()
    code = child.wait()
    _end(child.pid, GRACE_S)
    os._exit(code if code >= 0 else 128 - code)


def _end_with_parent(group: int) -> None:
    while os.read(0, 1):
        pass
    _end(group, GRACE_S)
    os._exit(0)


def _end(group: int, grace_s: float) -> None:
    """End every process of the group: by a request, after the grace by force."""
    deadline = time.monotonic() + grace_s
    sent = signal.SIGTERM
    while True:
        try:
            os.killpg(group, sent)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.1)
        if time.monotonic() > deadline:
            sent = signal.SIGKILL


if __name__ == "__main__":
    main()
