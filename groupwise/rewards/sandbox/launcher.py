"""Starts all workers from one thread that lives as long as the program.

A sandbox dies with the thread that started it (`PR_SET_PDEATHSIG` means the thread, not the process), so a worker must
not be started by one of a pool that goes away.
"""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from concurrent.futures import Future

from groupwise.rewards.sandbox.backend import FILE_NUMBER, Launch

_Job = tuple[Launch, Future["subprocess.Popen[bytes]"]]


class _Launcher:
    """The thread, started with the first worker; again in a process forked from this one."""

    def __init__(self) -> None:
        self.jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self.pid = 0
        self.lock = threading.Lock()

    def start(self, launch: Launch) -> subprocess.Popen[bytes]:
        with self.lock:
            if self.pid != os.getpid():
                self.pid, self.jobs = os.getpid(), queue.SimpleQueue()
                threading.Thread(target=_serve, args=(self.jobs,), name="groupwise-launcher", daemon=True).start()
        future: Future[subprocess.Popen[bytes]] = Future()
        self.jobs.put((launch, future))
        return future.result()


def _serve(jobs: queue.SimpleQueue[_Job]) -> None:
    while True:
        launch, future = jobs.get()
        try:
            future.set_result(_popen(launch))
        except OSError as error:
            future.set_exception(error)


def _popen(launch: Launch) -> subprocess.Popen[bytes]:
    fds = [] if launch.open_file is None else [launch.open_file()]
    try:
        return subprocess.Popen(
            [str(fds[0]) if part == FILE_NUMBER else part for part in launch.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(launch.environment),
            pass_fds=fds,
            start_new_session=True,
            bufsize=0,
            cwd=launch.folder,
        )
    finally:
        for fd in fds:
            os.close(fd)


_LAUNCHER = _Launcher()


def start(launch: Launch) -> subprocess.Popen[bytes]:
    """The started command, with pipes; `OSError` where there is no such program."""
    return _LAUNCHER.start(launch)
