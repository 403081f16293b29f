"""Tests of the writer and the reader together: what is written is what is read, whatever happens in between."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from groupwise.config import Recipe, load_recipe
from groupwise.errors import RunError
from groupwise.report.about import about
from groupwise.runs import SCHEMA_VERSION, RunReader, RunWriter, create, disk

from .synthetic import CONFIG, make_groups, make_metrics, write_run

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_metrics_come_back_as_they_went_in(tmp_path: Path) -> None:
    records = [make_metrics(step, make_groups(step)) for step in (1, 2, 5)]
    with RunWriter(create(tmp_path)) as writer:
        for record in records:
            writer.step(record)
    assert RunReader(tmp_path).metrics() == [{"schema_version": SCHEMA_VERSION, **record} for record in records]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_config_of_every_shipped_recipe_is_read_back_and_reported(tmp_path: Path, path: Path) -> None:
    recipe = load_recipe(path)
    write_run(tmp_path, num_steps=1, config={**CONFIG, "recipe": recipe.resolved()})
    assert Recipe(**RunReader(tmp_path).config["recipe"]) == recipe
    found = about(RunReader(tmp_path).config, "fallback")
    named = recipe.task or recipe.data or recipe.environment
    source = named.path if named is recipe.data else named.name
    assert source in " ".join((found.data, *found.rewards))


def test_completions_come_back_with_everything_a_reader_needs(tmp_path: Path) -> None:
    groups = make_groups(3)
    unscored = dataclasses.replace(groups[1], reward=(), rewards={}, advantages=(), is_used=False)
    with RunWriter(create(tmp_path)) as writer:
        writer.completions(3, [groups[0], unscored])
        writer.config({})
    first, second = RunReader(tmp_path).completions(3)
    group, record = groups[0], first["completions"][2]
    assert first["draw"] == group.draw
    assert first["prompt"] == group.problem.prompt
    assert first["columns"] == {"reference": "Binds names."}, "a column of 9,000 characters stays in the data set"
    assert [tuple(c["ids"]) for c in first["completions"]] == [c.token_ids for c in group.completions]
    assert record["rewards"] == {"length": group.rewards["length"][2], "format": 0.5}
    assert record["advantage"] == group.advantages[2]
    assert record["logprob_mean"] == pytest.approx(np.mean(group.completions[2].rollout_logprob), rel=1e-12)
    assert record["logprob_min"] == min(group.completions[2].rollout_logprob)
    assert (second["is_used"], second["completions"][0]["reward"]) == (False, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_is_not_finite_becomes_null_and_an_event(tmp_path: Path, bad: float) -> None:
    with RunWriter(create(tmp_path)) as writer:
        writer.step({"step": 1, "loss": bad, "reward": np.float64(2.5), "updates": np.int64(3)})
    reader = RunReader(tmp_path)
    assert reader.metrics() == [
        {"schema_version": SCHEMA_VERSION, "step": 1, "loss": None, "reward": 2.5, "updates": 3}
    ]
    (event,) = reader.events()
    assert (event["kind"], event["step"], event["values"]) == ("not_finite", 1, {"loss": str(float(bad))})
    assert "NaN" not in reader.folder.metrics.read_text()


def test_every_line_of_every_file_carries_the_schema_version(tmp_path: Path) -> None:
    folder = write_run(tmp_path, num_steps=2)
    lines = [line for path in tmp_path.rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == 2 + 2 + 4, "two steps, start and end, two groups a step"
    assert all(json.loads(text)["schema_version"] == SCHEMA_VERSION for text in [*lines, folder.run_json.read_text()])


def test_secrets_never_reach_the_disk(tmp_path: Path) -> None:
    with RunWriter(create(tmp_path)) as writer:
        writer.config({**CONFIG, "environment": ["run --key hf_abcdefghijklmnopqrstuvwxyz"], "pad_token": "<pad>"})
        writer.event("push", hub_token="hf_abcdefghijklmnopqrstuvwxyz", num_tokens=7)
    text = "".join(path.read_text() for path in tmp_path.glob("*.json*"))
    assert "abcdefghij" not in text
    assert "<pad>" in text
    assert '"num_tokens": 7' in text


def test_a_torn_last_line_is_not_there_yet_and_the_next_writer_mends_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path, num_steps=3)
    os.truncate(folder.metrics, folder.metrics.stat().st_size - 7)
    assert [record["step"] for record in RunReader(folder).metrics()] == [1, 2]
    with RunWriter(folder) as writer:
        writer.step({"step": 3})
    assert [record["step"] for record in RunReader(folder).metrics()] == [1, 2, 3]


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, num_steps=3)
    lines = folder.metrics.read_bytes().split(b"\n")
    folder.metrics.write_bytes(b"\n".join([lines[0], lines[1][:20], *lines[2:]]))
    with pytest.raises(RunError, match=r"is damaged: line 2 is not JSON"):
        RunReader(folder).metrics()


@pytest.mark.parametrize("version", [3, "1", True, None])
def test_an_unknown_schema_version_is_refused_with_a_sentence(tmp_path: Path, version: object) -> None:
    folder = write_run(tmp_path, num_steps=1)
    folder.metrics.write_text(json.dumps({"schema_version": version, "step": 1}) + "\n")
    with pytest.raises(RunError, match=rf"schema version {version}; this groupwise reads 1 to 2\. Read it with"):
        RunReader(folder).metrics()


def test_cutting_leaves_one_history_and_keeps_the_events(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "cut", num_steps=6)
    events = folder.events.read_bytes()
    reader = RunReader(folder)
    for _ in range(2):
        reader.cut_after(4)
        assert [record["step"] for record in reader.metrics()] == [1, 2, 3, 4]
        assert reader.completion_steps() == [1, 2, 3, 4]
        assert folder.events.read_bytes() == events
    shorter = write_run(tmp_path / "short", num_steps=4)
    assert folder.metrics.read_bytes() == shorter.metrics.read_bytes()


def test_a_crash_while_cutting_leaves_the_old_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path, num_steps=6)
    before = folder.metrics.read_bytes()

    def crash(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(disk.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        RunReader(folder).cut_after(4)
    assert folder.metrics.read_bytes() == before
    assert [path.name for path in folder.path.iterdir() if "part" in path.name] == []


def test_the_process_that_writes_a_run_may_cut_it_and_no_other(tmp_path: Path) -> None:
    folder = write_run(tmp_path, num_steps=6)
    program = (
        "import sys; from groupwise.runs import RunReader; from groupwise.errors import RunError\n"
        "try: RunReader(sys.argv[1]).cut_after(1)\n"
        "except RunError as error: print(error)"
    )
    with RunWriter(folder) as writer:
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
        )
        assert "is in use" in done.stdout
        RunReader(folder).cut_after(4)
        writer.step({"step": 5})
    assert [record["step"] for record in RunReader(folder).metrics()] == [1, 2, 3, 4, 5]


def test_a_full_disk_keeps_what_was_finished(tmp_path: Path) -> None:
    """The limit on file size stands in for the disk: the system writes half a line, then refuses."""
    folder = write_run(tmp_path, num_steps=3)
    before = folder.metrics.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunWriter(folder) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
        try:
            with pytest.raises(RunError, match=r"No space left on the disk.*kept: free some space and resume"):
                writer.step(make_metrics(4, make_groups(4)))
            with pytest.raises(RunError, match="No space left"):
                writer.completions(4, make_groups(4, num_groups=20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert folder.metrics.read_bytes() == before
        assert folder.completion_steps() == [1, 2, 3]
        writer.step(make_metrics(4, make_groups(4)))
    assert [record["step"] for record in RunReader(folder).metrics()] == [1, 2, 3, 4]


def test_any_text_survives(tmp_path: Path) -> None:
    text = 'line\nbreak "quoted" 日本語 \u2028 \x00 \ud83d'
    group = make_groups(1)[0]
    odd = dataclasses.replace(group, completions=tuple(dataclasses.replace(c, text=text) for c in group.completions))
    with RunWriter(create(tmp_path)) as writer:
        writer.completions(1, [odd])
        writer.config({"recipe": {"system_prompt": text}})
    assert RunReader(tmp_path).completions(1)[0]["completions"][0]["text"] == text
    assert RunReader(tmp_path).config["recipe"]["system_prompt"] == text
