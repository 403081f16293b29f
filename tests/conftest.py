"""What every test may count on."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the suite may wait for a network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

THREADS = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
"""Threads of a slow test: threads of two workers on one core wait for each other."""
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))  # for the programs that tests start


@pytest.fixture
def docs_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a script of docs/ by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "docs"))
    return importlib.import_module


@pytest.fixture(autouse=True)
def _threads(request: pytest.FixtureRequest) -> None:
    """Tiny tensors are fastest on one thread; a slow test has a real model and takes its share of the machine."""
    torch = sys.modules.get("torch")
    if torch is not None:
        is_slow = request.node.get_closest_marker("slow") is not None
        torch.set_num_threads(THREADS if is_slow else 1)


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """A suite started in the background inherits a Ctrl-C that is ignored, and one under nohup a SIGHUP."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def _no_report() -> Iterator[None]:
    """Runs draw no report: that takes longer than to train a tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groupwise.report.write_report", lambda folder, _=None: folder.report / "index.html")
        yield


@pytest.fixture
def real_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and commands of this test draw the report."""
    from groupwise.report.write import write_report

    monkeypatch.setattr("groupwise.report.write_report", write_report)


def pytest_collection_finish() -> None:
    """What is there before the first test stays; whoever collects garbage need not look through it again.

    Every trainer that is made collects garbage, and a suite holds millions of objects.
    """
    gc.collect()
    gc.freeze()
