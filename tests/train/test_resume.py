"""Interrupted and resumed is uninterrupted: the same weights, completions and metrics, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import ROWS, trainer
from tiny import tiny_model, with_lora
from transformers import TrainerCallback

from groupwise.errors import DataError, RunError
from groupwise.runs.folder import RunFolder

LAST = 4
COMMON: dict[str, Any] = {
    "max_steps": LAST,
    "num_generations": 3,
    "max_completion_length": 5,
    "learning_rate": 0.02,
    "warmup_steps": 1,
    "weight_decay": 0.1,
}
RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "full": (tiny_model, {"beta": 0.0}),
    "full, reference": (tiny_model, {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 2}),
    "tied, mu 2": (lambda: tiny_model("llama-tied"), {"beta": 0.0, "num_iterations": 2, "num_minibatches": 2}),
    "fresh lora": (lambda: with_lora(tiny_model(), is_learnt=False), {"beta": 0.1}),
    "learnt lora": (lambda: with_lora(tiny_model()), {"beta": 0.1, "ref_model_reset_steps": 2}),
    "bfloat16": (lambda: with_lora(tiny_model().bfloat16()), {"beta": 0.0, "dtype": "bfloat16"}),
    "slow path": (lambda: tiny_model("lfm2"), {"beta": 0.1}),
    "ema": (tiny_model, {"objective": {"preset": "grpo", "baseline": "ema", "scale": "none", "beta": 0.0}}),
    "dynamic": (tiny_model, {"beta": 0.0, "dynamic_sampling": True}),
    "adaptive": (
        tiny_model,
        {"beta": 0.1, "kl_target": 0.01, "kl_horizon": 50, "use_adaptive_entropy": True, "entropy_target": 9.0},
    ),
    "measured kl, greedy": (tiny_model, {"objective": "remax", "beta": 0.0, "kl_metric_steps": 2}),
    "pools": (
        tiny_model,
        {"beta": 0.0, "dynamic_sampling": True, "curriculum": "pools", "curriculum_patience": 1},
    ),
    "levels": (
        tiny_model,
        {
            "beta": 0.0,
            "curriculum": "levels",
            "curriculum_window": 2,
            "curriculum_up_at": 0.4,
            "data": [{**row, "level": number // 2} for number, row in enumerate(ROWS)],
        },
    ),
    "adafactor": (tiny_model, {"beta": 0.0, "optim": "adafactor"}),
}


def letters(completions: list[str], **columns: Any) -> list[float]:
    """Equal values are common, so that some groups have no signal."""
    return [float(completion.count("a") + completion.count("e")) for completion in completions]


class StopAfter(TrainerCallback):
    """Asks for the end of the run when this step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def run(name: str, folder: Path, *, stop: int | None = None, resume: bool | Path = False) -> Any:
    make, settings = RUNS[name]
    callbacks = [StopAfter(stop)] if stop else []
    grpo = trainer(folder, model=make(), rewards=letters, rest={"callbacks": callbacks}, **{**COMMON, **settings})
    grpo.train(resume_from_checkpoint=resume or None)
    return grpo


def history(folder: Path) -> list[dict[str, Any]]:
    """Metrics without what the clock and the machine say."""
    measured = ("time", "seconds", "per_second", "memory")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if not any(word in k for word in measured)} for record in records]


def completions(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted((folder / "completions").iterdir())}


@pytest.mark.parametrize("name", [name for name in RUNS if name != "full"])
def test_a_resumed_run_is_the_uninterrupted_one(name, tmp_path):
    whole = run(name, tmp_path / "whole")
    assert run(name, tmp_path / "parts", stop=2).state.global_step == 2
    parts = run(name, tmp_path / "parts", resume=True)
    assert parts.state.global_step == LAST
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert [record["step"] for record in history(tmp_path / "parts")] == list(range(1, LAST + 1))
    assert completions(tmp_path / "parts") == completions(tmp_path / "whole")
    mine, theirs = parts.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(mine[n], theirs[n]) for n in theirs)
    start = RUNS[name][0]().state_dict()
    assert not all(torch.equal(mine[n], start[n].to(mine[n].dtype)) for n in start), "something was learnt"


def test_what_came_after_the_checkpoint_is_forgotten(tmp_path):
    run("full", tmp_path / "whole")
    run("full", tmp_path / "parts", stop=2)
    folder = RunFolder(tmp_path / "parts")
    run("full", tmp_path / "parts", resume=True)  # to the end; now once more from step 2
    again = run("full", tmp_path / "parts", resume=folder.checkpoint_of(2))
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert completions(tmp_path / "parts") == completions(tmp_path / "whole")
    assert again.state.global_step == LAST


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run("fresh lora", tmp_path, stop=1)
    other = trainer(tmp_path, model=with_lora(tiny_model(), rank=5), rewards=letters, **COMMON)
    with pytest.raises(RunError, match="belongs to another model or adapter"):
        other.train(resume_from_checkpoint=True, allow_changes=True)


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    run("full", tmp_path, stop=1)
    other = trainer(tmp_path, rewards=letters, data=[{"prompt": "ab"}] * 9, **{**COMMON, "beta": 0.0})
    with pytest.raises(DataError, match="num_rows was 6 and is now 9"):
        other.train(resume_from_checkpoint=True, allow_changes=True)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"has no manifest\.json"):
        trainer(tmp_path / "run", rewards=letters, **COMMON).train(resume_from_checkpoint=tmp_path / "empty")


def test_checkpoints_are_kept_up_to_the_limit_and_leave_no_scratch(tmp_path):
    trainer(tmp_path, rewards=letters, **{**COMMON, "save_steps": 1, "save_total_limit": 2}).train()
    assert RunFolder(tmp_path).checkpoint_steps() == [LAST - 1, LAST]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000003", "step-000004"]


def test_an_interrupted_write_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    def full_disk(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    run("full", tmp_path, stop=2)
    monkeypatch.setattr("groupwise.runs.disk.sync", full_disk)
    with pytest.raises(RunError, match="No space left"):
        run("full", tmp_path, stop=3, resume=True)
    assert RunFolder(tmp_path).checkpoint_steps() == [2]
