"""Runs scenarios on several ranks: processes forked from one that has imported everything, each with the environment
of a launcher. `python -m tests.ranks.launching FOLDER` runs the launches that FOLDER/launches.json lists."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
MAX_PROCESSES = 6
"""Ranks that run at a time, of all launches together."""


@dataclass(frozen=True)
class Launch:
    """`scenario(folder, argument)` of `scenarios.py` on `size` ranks, in the folder `name`."""

    name: str
    size: int
    scenario: str
    argument: Any = None
    then: Launch | None = None
    """Another launch in the same folder when this one has ended."""


@dataclass(frozen=True)
class Launched:
    """What a launch has left."""

    folder: Path
    codes: list[list[int]]
    """For the launch and those that followed it, the exit code of each rank; a negative one is a signal."""
    seconds: list[float]

    def result(self, rank: int = 0) -> Any:
        """What the scenario returned on that rank."""
        path = self.folder / f"rank-{rank}.json"
        assert path.is_file(), self.output
        return json.loads(path.read_text())

    @property
    def output(self) -> str:
        """What all ranks have printed."""
        return (self.folder / "output.txt").read_text()


def launch_all(folder: Path, launches: Sequence[Launch], *, timeout: float = 600) -> dict[str, Launched]:
    """Run the launches, several at a time, in one process that forks; name -> what it has left."""
    (folder / "launches.json").write_text(json.dumps([asdict(launch) for launch in launches]))
    subprocess.run(
        [sys.executable, "-m", "tests.ranks.launching", str(folder)],
        cwd=ROOT,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    ended = json.loads((folder / "ended.json").read_text())
    return {name: Launched(folder / name, **values) for name, values in ended.items()}


long_runs = pytest.mark.skipif(
    not os.environ.get("GROUPWISE_RANKS"), reason="minutes of runs of several ranks: make ranks"
)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    """A launch under way."""

    def __init__(self, launch: dict[str, Any], folder: Path) -> None:
        self.launch, self.folder = launch, folder / launch["name"]
        self.folder.mkdir(exist_ok=True)
        for old in self.folder.glob("rank-*.json"):
            old.unlink()
        self.started, port, self.size = monotonic(), free_port(), launch["size"]
        self.codes: list[int | None] = [None] * self.size
        self.ranks = {self._fork(rank, port): rank for rank in range(self.size)}

    def _fork(self, rank: int, port: int) -> int:
        if child := os.fork():
            return child
        output = os.open(self.folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(_environment(rank, self.size, port))
        os._exit(self._run(rank))

    def _run(self, rank: int) -> int:
        from tests.ranks import scenarios

        code = 0
        try:
            result = getattr(scenarios, self.launch["scenario"])(self.folder, self.launch["argument"])
            (self.folder / f"rank-{rank}.json").write_text(json.dumps(result))
        except BaseException:
            traceback.print_exc()
            code = 1
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        return code


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in names.items()} if size > 1 else {}


def main(folder: Path) -> None:
    """Run every launch, as many at a time as there is room for."""
    from tests.ranks import scenarios

    waiting = json.loads((folder / "launches.json").read_text())
    assert all(hasattr(scenarios, launch["scenario"]) for launch in waiting)
    running: list[Running] = []
    ended: dict[str, Any] = {}
    while waiting or running:
        while waiting and (not running or sum(r.size for r in running) + waiting[0]["size"] <= MAX_PROCESSES):
            running.append(Running(waiting.pop(0), folder))
        pid, status = os.wait()
        for each in [r for r in running if pid in r.ranks]:
            each.codes[each.ranks.pop(pid)] = os.waitstatus_to_exitcode(status)
            if not each.ranks:
                running.remove(each)
                if (then := each.launch["then"]) is not None:
                    waiting.insert(0, {**then, "name": each.launch["name"]})
                left = ended.setdefault(each.launch["name"], {"codes": [], "seconds": []})
                left["codes"].append(each.codes)
                left["seconds"].append(monotonic() - each.started)
    (folder / "ended.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
