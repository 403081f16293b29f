"""Runs to look at, written by the writer itself, and a client of the page's server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "runs"))
sys.path.append(str(ROOT / "bench"))  # last: bench/ and tests/ have modules of one name

from synthetic import write_run  # noqa: E402

from groupwise.watch.app import make_app  # noqa: E402

TOKEN = "unguessable"
NUM_STEPS = 40


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that no test changes."""
    return write_run(tmp_path_factory.mktemp("shared") / "run", num_steps=NUM_STEPS).path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of a test's own."""
    return write_run(tmp_path / "run", num_steps=6, eval_every=2).path


@pytest.fixture
def client(shared_run: Path) -> Iterator[TestClient]:
    with client_of(shared_run) as found:
        yield found


def client_of(*runs: Path) -> TestClient:
    """A client whose paths begin behind the token."""
    return TestClient(make_app(runs, TOKEN), base_url=f"http://127.0.0.1/{TOKEN}")
