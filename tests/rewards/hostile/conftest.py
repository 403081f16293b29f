"""The sandbox that hostile programs run in, and what is looked at outside while they do."""

from __future__ import annotations

import os
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from groupwise.rewards.sandbox.backend_choice import BackendChoice, use
from groupwise.rewards.sandbox.detect import find_bubblewrap
from groupwise.rewards.sandbox.usage import descendants
from groupwise.rewards.shipped.code import Code

LIMIT_S = 0.3
MEMORY_MB = 256


def pytest_collection_modifyitems(items):
    """Skipped loudly where there is no sandbox to attack."""
    found = find_bubblewrap()
    if found.backend is not None:
        return
    for item in items:
        if Path(item.fspath).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason=f"HOSTILE SUITE NOT RUN: {found.reason}"))


def pytest_terminal_summary(terminalreporter):
    """Said at the end of the run as well, where reasons of skipped tests are not listed."""
    if (found := find_bubblewrap()).backend is None:
        terminalreporter.write_line(f"THE HOSTILE SUITE HAS NOT RUN: {found.reason}", yellow=True, bold=True)


@dataclass
class Arena:
    """Programs attack from inside; this is the outside."""

    code: Code
    home: Path
    marks: list[str] = field(default_factory=list)

    def attack(self, program: str, tests: object, limit_s: float = LIMIT_S) -> tuple[float | None, str]:
        """The reward of a program, and why, after a look at what it left behind."""
        before = self.processes()
        whys: list[str | None] = []
        watch = Watch()
        self.code.programs.timeout_s = limit_s
        with watch:
            (reward,) = self.code(["```python\n" + program + "\n```"], log_why=whys.extend, tests=[tests])
        assert self.processes() <= before, "processes are left"
        assert not self.named(self.mark), "a process of the attack is left"
        assert watch.peak_mb < 3 * MEMORY_MB, f"the attack and all sandboxes used {watch.peak_mb} MB"
        return reward, str(whys[0])

    def new_mark(self) -> str:
        """A word to find an attack's processes and files by; as long as a process's name may be."""
        self.marks.append(f"mark{uuid.uuid4().hex[:11]}")
        return self.mark

    @property
    def mark(self) -> str:
        return self.marks[-1] if self.marks else "no-attack-has-a-mark"

    def processes(self) -> int:
        """Sandboxes and what runs in them, once those that wait have started."""
        for worker in [*self.code.programs.waiting]:
            worker.await_start(10)
        return len(descendants(os.getpid()))

    def still_works(self) -> None:
        """A right program gets its reward, whatever ran before it."""
        self.code.programs.timeout_s = 10.0
        (reward,) = self.code(["```python\nprint(2 * int(input()))\n```"], tests=[[{"input": "3", "output": "6"}]])
        assert reward == 1

    def named(self, mark: str) -> list[int]:
        """Processes anywhere on the machine whose command line or environment holds the mark."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    if mark.encode() in (folder / "cmdline").read_bytes() or mark in (folder / "comm").read_text():
                        found.append(int(folder.name))
                except OSError:
                    continue
        return found


class Watch:
    """Memory of everything below this process, looked at every few milliseconds."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        ours = Path("/proc/self/cmdline").read_bytes()
        while not self._over.wait(0.02):
            pages = 0
            for pid in descendants(os.getpid())[1:]:
                try:
                    if Path(f"/proc/{pid}/cmdline").read_bytes() == ours:
                        continue  # a fork that is about to start a worker: its memory is still this process's own
                    pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                except (OSError, IndexError):
                    continue
            self.peak_mb = max(self.peak_mb, pages * page / 2**20)


@pytest.fixture(scope="package")
def arena(tmp_path_factory):
    use(BackendChoice("bubblewrap"))
    code = Code(limit_s=LIMIT_S, memory_mb=MEMORY_MB, num_workers=1)
    code.load()
    yield Arena(code, tmp_path_factory.mktemp("home"))
    code.programs.close()
    use(BackendChoice())
    time.sleep(0.05)
