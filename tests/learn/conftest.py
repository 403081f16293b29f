"""Runs of this folder are about learning; the report has tests of its own."""

from __future__ import annotations

import api_helpers
import pytest


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    api_helpers.draw_no_report(monkeypatch)
