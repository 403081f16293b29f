"""A few kills of the many that `make faults` does, and that the suite would see what it looks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from faults.recipes import make_trainer
from faults.suite import Figures, count_differences, end_of

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(tmp_path):
    """In a process of its own: only one that has started no thread may fork."""
    command = [sys.executable, "-m", "faults.suite", "--kills", "5", "--quick", "--out", str(tmp_path / "figures.json")]
    subprocess.run(
        command, check=True, timeout=600, env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    )
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["kills"] == 5
    assert figures["differing_runs"] == figures["lost_steps"] == figures["doubled_steps"] == 0


def test_the_suite_sees_a_difference(tmp_path):
    def finished(name: str, **changes: Any) -> Path:
        make_trainer("full, mu 2 x 2", tmp_path / name, max_steps=2, **changes).train()
        return tmp_path / name

    figures, wanted = Figures(), end_of(finished("whole"))
    count_differences("same", finished("same"), wanted, 2, figures)
    assert (figures.differing_runs, figures.problems) == (0, [])
    count_differences("other", finished("other", learning_rate=0.03), wanted, 2, figures)
    lines = (tmp_path / "same/metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "same/metrics.jsonl").write_text(lines[1] + lines[1])
    count_differences("doubled", tmp_path / "same", wanted, 2, figures)
    assert (figures.differing_runs, figures.lost_steps, figures.doubled_steps) == (2, 1, 1)
