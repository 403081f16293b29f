"""A page goes on while the folder under it grows, is resumed, rolled back, written over, damaged or deleted."""

from __future__ import annotations

import shutil
from pathlib import Path

from synthetic import CONFIG, make_groups, make_metrics, write_run

from groupwise.runs import RunReader, RunWriter, create, open_run
from groupwise.watch.watched_run import WatchedRun


def steps(run: WatchedRun) -> list[int]:
    with run.looked_at():
        return list(run.columns.steps)


def test_a_run_from_before_its_start_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run, seen = WatchedRun(path), []
    seen.append(run.version()["state"])
    folder = create(path)
    seen.append(run.version()["state"])
    with RunWriter(folder) as writer:
        writer.config(CONFIG | {"recipe": CONFIG["recipe"] | {"max_steps": 2}})
        writer.event("start", step=0)
        seen.append(run.version()["state"])
        for step in (1, 2):
            groups = make_groups(step)
            writer.step(make_metrics(step, groups))
            writer.completions(step, groups)
            assert run.version()["last_step"] == step
        assert run.seconds_left == 0
        writer.event("end", step=2, is_complete=True)
        seen.append(run.version()["state"])
    assert seen == ["gone", "waiting", "training", "finished"]
    assert run.num_steps == 2
    assert run.steps["completions"] == [1, 2]


def test_nothing_new_is_no_change(shared_run: Path) -> None:
    run = WatchedRun(shared_run)
    assert run.version() == run.version()


def test_a_run_that_was_killed_has_ended_and_comes_back_when_it_is_resumed(tmp_path: Path) -> None:
    folder = create(tmp_path / "run")
    run = WatchedRun(folder.path)
    with RunWriter(folder) as writer:
        writer.event("start", step=0)
        writer.step(make_metrics(1, make_groups(1)))
        assert run.version()["state"] == "training"
    assert run.version()["state"] == "ended"
    assert "broke off after step 1" in run.ending
    with RunWriter(folder) as writer:
        writer.event("resume", step=1)
        assert run.version()["state"] == "training"


def test_a_rolled_back_run_has_one_history(run: Path) -> None:
    watched = WatchedRun(run)
    assert steps(watched) == [1, 2, 3, 4, 5, 6]
    before = watched.version()["history"]
    RunReader(run).cut_after(3)
    with RunWriter(open_run(run)) as writer:
        groups = make_groups(4, seed=9)
        writer.step(make_metrics(4, groups))
        writer.completions(4, groups)
    assert steps(watched) == [1, 2, 3, 4]
    assert watched.steps["completions"] == [1, 2, 3, 4]
    assert watched.version()["history"] == before + 1


def test_a_run_that_is_written_over(run: Path) -> None:
    watched = WatchedRun(run)
    assert watched.version()["last_step"] == 6
    create(run, overwrite=True)
    assert steps(watched) == []
    write_run_again = write_run(run, num_steps=2)
    assert write_run_again.path == run
    assert steps(watched) == [1, 2]


def test_a_deleted_run_keeps_what_was_read(run: Path) -> None:
    watched = WatchedRun(run)
    watched.version()
    shutil.rmtree(run)
    assert watched.version()["state"] == "gone"
    assert steps(watched) == [1, 2, 3, 4, 5, 6]
    write_run(run, num_steps=3)
    assert steps(watched) == [1, 2, 3]


def test_damage_is_named_and_the_rest_is_shown(run: Path) -> None:
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b"rubbish\n")
    (run / "run.json").write_text("{")
    watched = WatchedRun(run)
    assert steps(watched) == [1, 2, 3, 4, 5, 6]
    assert len(watched.damage) == 2


def test_steps_follow_from_epochs(tmp_path: Path) -> None:
    recipe = CONFIG["recipe"] | {"num_train_epochs": 3, "max_steps": -1}
    watched = WatchedRun(write_run(tmp_path / "run", num_steps=1, config=CONFIG | {"recipe": recipe}).path)
    watched.version()
    assert watched.num_steps == 3 * 1200 // 2


def test_looking_changes_nothing(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"}
    watched = WatchedRun(run)
    watched.version()
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"} == before
