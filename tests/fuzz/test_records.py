"""Records of a run and checkpoints: cut short, bits turned over, wrong types. What is refused is left as it was."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from api_helpers import trainer
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model, with_lora

from groupwise.checkpoint.store import read_state, restore
from groupwise.diagnose.doctor import examine
from groupwise.report import model_card
from groupwise.report.about import about
from groupwise.report.history import evaluation_rows, in_short
from groupwise.report.page import page
from groupwise.report.samples import pairs
from groupwise.runs import RunFolder, RunReader, RunWriter, create, manifest

from .harness import as_json, attempt, contents, damage, fuzz, retyped

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))

from synthetic import write_run


def read_everything(folder: Path) -> None:
    """What `groupwise report` and a model card read, but for the drawing."""
    reader = RunReader(folder)
    records, events = reader.metrics(), reader.events()
    in_short(records)
    evaluation_rows(records)
    for step in reader.completion_steps():
        reader.completions(step)
    page(about(reader.config, "run"), examine(reader), events, [], pairs(reader), "footer")
    model_card(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records")
    folder = write_run(path / "good", num_steps=4)
    with RunWriter(folder if isinstance(folder, RunFolder) else RunFolder(path / "good")) as writer:
        writer.event("start", step=0)
        writer.event("checkpoint", step=4, path="checkpoint-4")
    return path


def spoilt(run: Path) -> Path:
    shutil.rmtree(run / "bad", ignore_errors=True)
    shutil.copytree(run / "good", run / "bad")
    return run / "bad"


NAMES = ["metrics.jsonl", "events.jsonl", "run.json", "completions/step-000001.jsonl"]


@fuzz
@given(st.sampled_from(NAMES), st.lists(damage(), min_size=1, max_size=3))
def test_records_with_broken_bytes(run: Path, name: str, breaks: list[Any]) -> None:
    folder = spoilt(run)
    content = (folder / name).read_bytes()
    for broken in breaks:
        content = broken(content)
    (folder / name).write_bytes(content)
    before = contents(folder)
    attempt(f"records, bytes of {name.split('/')[0]}", lambda: read_everything(folder))
    assert contents(folder) == before


@fuzz
@given(st.data(), st.sampled_from(NAMES))
def test_records_with_wrong_types(run: Path, data: st.DataObject, name: str) -> None:
    folder = spoilt(run)
    lines = (folder / name).read_text().splitlines() if name.endswith("l") else [(folder / name).read_text()]
    number = data.draw(st.integers(0, len(lines) - 1))
    lines[number] = as_json(data.draw(retyped(json.loads(lines[number])))).decode()
    (folder / name).write_text("".join(line + "\n" for line in lines))
    before = contents(folder)
    attempt(f"records, types in {name.split('/')[0]}", lambda: read_everything(folder))
    assert contents(folder) == before


@fuzz
@given(st.data(), st.sampled_from(["metrics.jsonl", "completions/step-000001.jsonl"]))
def test_cutting_and_going_on_with_broken_records(run: Path, data: st.DataObject, name: str) -> None:
    folder = spoilt(run)
    (folder / name).write_bytes(data.draw(damage())((folder / name).read_bytes()))
    attempt("records, cutting", lambda: RunReader(folder).cut_after(2))
    attempt("records, a start into the folder", lambda: create(folder))
    assert (folder / "metrics.jsonl").is_file(), "a run that has trained is never replaced unasked"


# --- checkpoints ---


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A checkpoint, and a learner that it belongs to."""
    path = tmp_path_factory.mktemp("checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        made = trainer(path / "run", model=with_lora(tiny_model(), rank=2), max_steps=1, save_steps=1)
        kept: list[Any] = []
        patch.setattr("groupwise.checkpoint.store.read_state", read_state)
        patch.setattr(type(made), "_finish", lambda self, run, folder: kept.append(run))
        made.train()
    (path / "run/checkpoint-1").rename(path / "good")
    return path, kept[0].learner


CHECKPOINT_FILES = ["manifest.json", "state/state.json", "adapter_model.safetensors", "state/optimizer.safetensors"]


def put_back(folder: Path, learner: Any) -> None:
    restore(folder, read_state(folder), learner)


@fuzz
@given(st.sampled_from(CHECKPOINT_FILES), damage())
def test_checkpoints_with_broken_bytes(checkpoint: tuple[Path, Any], name: str, broken: Any) -> None:
    path, learner = checkpoint
    folder = spoilt(path)
    good = (folder / name).read_bytes()
    bad = broken(good)
    (folder / name).write_bytes(bad)
    before = contents(folder)
    handled = attempt(f"checkpoints, bytes of {name}", lambda: put_back(folder, learner) or "put back")
    assert contents(folder) == before
    assert handled is None or bad == good or json.loads(bad) == json.loads(good), "damage that nobody noticed"


@fuzz
@given(st.data())
def test_checkpoints_with_a_foreign_state(checkpoint: tuple[Path, Any], data: st.DataObject) -> None:
    """The sum is right and the contents are not: written by something else."""
    path, learner = checkpoint
    folder = spoilt(path)
    state = json.loads((folder / "state/state.json").read_text())
    (folder / "state/state.json").write_bytes(as_json(data.draw(retyped(state))))
    (folder / "manifest.json").unlink()
    manifest.write(folder)
    attempt("checkpoints, foreign state", lambda: put_back(folder, learner))
