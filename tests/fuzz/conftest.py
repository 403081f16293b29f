"""Writes down how many inputs were tried, where `make fuzz` asks for it."""

from __future__ import annotations

import json
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from .harness import COUNTS

STARTED = time.monotonic()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    place = os.environ.get("FUZZ_RECORD")
    if not place or not COUNTS:
        return
    counts = {target: dict(sorted(counted.items())) for target, counted in sorted(COUNTS.items())}
    figures = {
        "command": "make fuzz",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - STARTED),
        "inputs": sum(sum(counted.values()) for counted in counts.values()),
        "outcomes": counts,
        "failures": session.testsfailed,
    }
    Path(place).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
