"""Runs of schema 1, as commit 003b168 wrote them: every reader takes them, and resuming moves them first.

`schema_1/` is such a run: a tiny model with LoRA, four steps, a checkpoint after the second and the fourth.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import model_folder
from histories import completions, history
from safetensors.torch import load_file
from transformers.trainer_utils import get_last_checkpoint

from groupwise import GRPOTrainer
from groupwise.checkpoint import move, store
from groupwise.config import load_recipe
from groupwise.export import export_run
from groupwise.generate import load_trained
from groupwise.report import write_report
from groupwise.runs import manifest
from groupwise.runs.folder import RunFolder, create
from groupwise.runs.reader import RunReader

RECORDED = Path(__file__).parent / "schema_1"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the run, with its base model."""
    shutil.copytree(RECORDED, tmp_path / "place")
    model_folder(tmp_path / "place/model")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def trainer(**changes: Any) -> GRPOTrainer:
    recipe = load_recipe("recipe.yaml", [f"{key}={value}" for key, value in changes.items()])
    return GRPOTrainer.from_recipe(recipe, folder=Path())


def without_the_fourth(place: Path) -> None:
    shutil.rmtree(place / "run/checkpoints/step-000004")
    shutil.rmtree(place / "run/final")


def test_readers_take_it_as_it_is(place: Path) -> None:
    before = sorted(path.relative_to(place) for path in (place / "run").rglob("*"))
    reader = RunReader("run")
    assert reader.config["recipe"]["model"] == "model"
    assert [record["step"] for record in reader.metrics()] == [1, 2, 3, 4]
    assert len(reader.completions(4)) == 2
    model, _ = load_trained("run", device=torch.device("cpu"))
    assert model.peft_config
    assert sorted(path.relative_to(place) for path in (place / "run").rglob("*")) == before
    export_run("run", "exported", merge=True)
    assert (place / "exported/model.safetensors").is_file()
    assert write_report(RunFolder(Path("run"))).is_file()


def test_it_is_protected_and_can_be_overwritten(place: Path) -> None:
    with pytest.raises(Exception, match=r"already holds a run \(4 steps recorded, 2 checkpoints\)"):
        create("run")
    create("run", overwrite=True)
    assert sorted(path.name for path in Path("run").glob("[!.]*")) == ["completions"]


def test_resuming_moves_it_and_ends_with_the_same_bits(place: Path) -> None:
    """The same as from the checkpoint of schema 1 read in place, without a move."""
    without_the_fourth(place)
    shutil.copytree("run", "unmoved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groupwise.lifecycle.resume.move_to_today", lambda *_: False)
        unmoved = trainer(output_dir="unmoved")
        unmoved.train(resume_from_checkpoint=True, allow_changes=True)
    moved = trainer()
    moved.train(resume_from_checkpoint=True)
    for mine, theirs in zip(moved.model.parameters(), unmoved.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert history(place / "run") == history(place / "unmoved")
    assert completions(place / "run") == completions(place / "unmoved")
    assert [e["kind"] for e in RunReader("run").events()].count("moved") == 1
    names = {path.name for path in Path("run").glob("[!.]*")}
    assert {"run.json", "checkpoint-2", "checkpoint-4"} <= names
    assert not names & {"config.json", "checkpoints"}


def test_a_moved_checkpoint_holds_the_same_values(place: Path) -> None:
    old = {step: load_file(f"run/checkpoints/step-00000{step}/policy.safetensors") for step in (2, 4)}
    resumed = trainer(max_steps=5)
    resumed.train(resume_from_checkpoint=True, allow_changes=True)
    assert get_last_checkpoint("run") == str(Path("run/checkpoint-5"))
    for step, weights in old.items():
        path = Path(f"run/checkpoint-{step}")
        manifest.check(path)
        store.load_weights(path, resumed.parts.policy.policy_model)
        trained = {name: p for name, p in resumed.model.named_parameters() if p.requires_grad}
        assert all(torch.equal(trained[name], tensor) for name, tensor in weights.items())
        assert not (path / "state/policy.safetensors").exists(), "each weight is stored once"
    assert RunReader("run").config["recipe"]["max_steps"] == 5


def test_other_files_beside_the_checkpoints_stay(place: Path) -> None:
    Path("run/checkpoints/notes.txt").write_text("mine")
    Path("run/checkpoints/.step-000002.tmp").mkdir()
    trainer(max_steps=5).train(resume_from_checkpoint=True, allow_changes=True)
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("kill_at", range(1, 8))
def test_a_kill_in_mid_move_loses_nothing(place: Path, monkeypatch: pytest.MonkeyPatch, kill_at: int) -> None:
    class Killed(BaseException):
        pass

    calls = 0

    def dying(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                raise Killed
            return function(*args, **kwargs)

        return call

    old = load_file("run/checkpoints/step-000002/policy.safetensors")
    with monkeypatch.context() as patch:
        for owner, name in [(move, "write_model"), (manifest, "write"), (move.disk, "remove"), (Path, "replace")]:
            patch.setattr(owner, name, dying(getattr(owner, name)))
        with pytest.raises(Killed):
            trainer(max_steps=5).train(resume_from_checkpoint=True, allow_changes=True)
    assert len(RunReader("run").metrics()) == 4
    resumed = trainer(max_steps=5)
    resumed.train(resume_from_checkpoint=True, allow_changes=True)
    assert RunFolder(Path("run")).checkpoint_steps() == [2, 4, 5]
    store.load_weights(Path("run/checkpoint-2"), resumed.parts.policy.policy_model)
    trained = {name: p for name, p in resumed.model.named_parameters() if p.requires_grad}
    assert all(torch.equal(trained[name], tensor) for name, tensor in old.items())


def test_a_damaged_checkpoint_stays_damaged_and_named(place: Path) -> None:
    weights = Path("run/checkpoints/step-000004/policy.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    trainer().train(resume_from_checkpoint=True)
    (damaged,) = [e["message"] for e in RunReader("run").events() if e["kind"] == "checkpoint_damaged"]
    assert damaged.endswith("The checkpoint of step 2 is used instead.")
    assert json.loads(Path("run/run.json").read_text())["schema_version"] == 2
