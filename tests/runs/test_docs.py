"""docs/run-folder.md names every field that is written, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from groupwise.runs.records import CompletionRecord, EvaluationRecord, GroupRecord
from groupwise.runs.token_record import TokenRecord

from .synthetic import write_run

TEXT = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text(encoding="utf-8")


def test_every_field_is_explained() -> None:
    named = set(re.findall(r"`(\w+)`", TEXT))
    records = (GroupRecord, CompletionRecord, EvaluationRecord)
    assert {key for record in records for key in record.__annotations__} | {*TokenRecord.__slots__} <= named


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs" / "experiment", num_steps=2)
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out.startswith("An assignment binds names")
