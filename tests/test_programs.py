"""What the program that holds a run does around it and within it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import api_helpers
import pytest
from api_helpers import ROWS, short, trainer
from transformers import TrainerCallback


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    api_helpers.draw_no_report(monkeypatch)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("at", ["reward", "callback", "script"])
def test_the_run_stays_in_its_folder_when_the_working_directory_changes(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def leave(where: str) -> None:
        if where == at:
            monkeypatch.chdir(tmp_path / "elsewhere")

    def leaving(completions: list[str], **columns: Any) -> list[float]:
        leave("reward")
        return short(completions)

    class Leaving(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            leave("callback")

    rest = {"callbacks": [Leaving()], "eval_dataset": ROWS[:2]}
    run = trainer(Path("run"), rewards=leaving, rest=rest, max_steps=3, save_steps=1, eval_steps=2)
    leave("script")
    run.train()
    assert not list((tmp_path / "elsewhere").iterdir())
    assert [entry["step"] for entry in lines(tmp_path / "run/metrics.jsonl")] == [1, 2, 3]
    checkpoints = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert checkpoints == ["step-000001", "step-000002", "step-000003"]
    assert (tmp_path / "run/final/model.safetensors").is_file()
