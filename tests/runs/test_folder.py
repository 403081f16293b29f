"""Tests of groupwise.runs.folder: what is protected, what is refused, and how."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from groupwise.errors import RunError
from groupwise.runs import RunReader, RunWriter, create, open_run
from groupwise.runs.folder import RunFolder, locked, make_check
from groupwise.runs.reserve import Reserve

from .synthetic import write_run


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", num_steps=2)
    before = folder.metrics.read_bytes()
    with pytest.raises(RunError, match=r"already holds a run \(2 steps recorded, 0 checkpoints\).*another output_dir"):
        create(tmp_path / "run")
    assert folder.metrics.read_bytes() == before


def test_overwrite_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", num_steps=2)
    (folder.checkpoint_of(2) / "state").mkdir(parents=True)
    (folder.path / "set-aside-checkpoint-3").mkdir()
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / "checkpoint-7").mkdir()
    (folder.path / "checkpoint-7/trainer_state.json").write_text("another trainer's")
    create(tmp_path / "run", overwrite=True)
    assert not folder.has_trained
    assert folder.completion_steps() == []
    assert sorted(path.name for path in folder.path.glob("[!.]*")) == ["checkpoint-7", "completions", "notes.txt"]


def test_resume_keeps_everything(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", num_steps=3)
    create(tmp_path / "run", resume=True)
    assert [record["step"] for record in RunReader(folder).metrics()] == [1, 2, 3]


def test_a_start_that_never_reached_a_step_does_not_block_the_next(tmp_path: Path) -> None:
    with RunWriter(create(tmp_path)) as writer:
        writer.config({"recipe": {}})
        writer.event("start")
    create(tmp_path)


def test_a_model_in_the_folder_of_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for overwrite in (False, True):
        folder = create(tmp_path, overwrite=overwrite)
        assert not folder.is_run
        with RunWriter(folder) as writer:
            writer.config({"recipe": {}})
    assert json.loads((tmp_path / "config.json").read_text()) == {"model_type": "llama"}
    assert RunReader(tmp_path).config["recipe"] == {}


def test_a_file_or_a_read_only_place_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match="is a file; expected a folder"):
        create(tmp_path / "taken")
    with pytest.raises(RunError, match=r'"/proc/groupwise" cannot be made in "/proc": the system lets nobody make one'):
        create("/proc/groupwise")


@pytest.mark.parametrize("make", [create, make_check])
def test_what_is_in_the_way_of_the_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match=rf'cannot be made: "{tmp_path / "taken"}" is a file; expected a folder'):
        make(tmp_path / "taken" / "a" / "b")
    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere
    with pytest.raises(RunError, match=rf'cannot be made in "{tmp_path}": Permission denied\. Expected a place'):
        make(tmp_path / "new")


def refuse(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_full_disk_is_said_before_training_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**12, 10**12, 5 * 2**20))
    with pytest.raises(RunError, match=r"No space left.*5 MiB free, at least 64 MiB needed"):
        create(tmp_path)


def test_only_finished_checkpoints_count(tmp_path: Path) -> None:
    folder = create(tmp_path)
    for name in ("checkpoint-100", "checkpoint-20", ".checkpoint-200.tmp", "checkpoint-x"):
        (folder.path / name / "state").mkdir(parents=True)
    assert folder.checkpoint_steps() == [20, 100]
    assert folder.latest_checkpoint == folder.checkpoint_of(100)


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    folder = create(tmp_path)
    program = (
        "import sys; from groupwise.runs import *; from groupwise.errors import RunError\n"
        "try: RunWriter(open_run(sys.argv[1]))\n"
        "except RunError as error: print(error)"
    )
    with RunWriter(folder) as writer:
        writer.config({})
        run = [sys.executable, "-c", program, str(tmp_path)]
        assert "is in use" in subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == ""


def test_a_run_that_another_process_writes_is_not_overwritten(tmp_path: Path) -> None:
    folder = write_run(tmp_path, num_steps=2)
    before = folder.metrics.read_bytes()
    program = (
        "import sys; from groupwise.runs import create; from groupwise.errors import RunError\n"
        "try: create(sys.argv[1], overwrite=True)\n"
        "except RunError as error: print(error)"
    )
    with RunWriter(folder):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
        )
    assert "is in use" in done.stdout
    assert folder.metrics.read_bytes() == before


def holding(path: Path) -> list[str]:
    """A command that holds a run until its input ends, or prints why it cannot."""
    program = (
        "import sys; from groupwise.runs.folder import *; from groupwise.errors import RunError\n"
        "try:\n"
        "    with locked(RunFolder(Path(sys.argv[1]))): print('free', flush=True); input()\n"
        "except (RunError, EOFError) as error: print(error)"
    )
    return [sys.executable, "-c", program, str(path)]


def what_another_process_finds(path: Path) -> str:
    return subprocess.run(holding(path), input="", capture_output=True, text=True, check=True).stdout


def test_the_process_that_holds_a_run_holds_it_again_from_any_thread(tmp_path: Path) -> None:
    folder = create(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    held: list[bool] = []

    def hold() -> None:
        with locked(RunFolder(tmp_path / "link")):
            held.append(True)

    with locked(folder):
        hold()
        thread = threading.Thread(target=hold)
        thread.start()
        thread.join()
        assert held == [True, True]
        assert "is in use" in what_another_process_finds(tmp_path / "run")
    assert what_another_process_finds(tmp_path / "run").startswith("free")


def test_a_process_that_is_killed_frees_its_run(tmp_path: Path) -> None:
    create(tmp_path)
    with subprocess.Popen(holding(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "free\n"
        with pytest.raises(RunError, match="is in use"), locked(RunFolder(tmp_path)):
            pass
        process.kill()
        process.wait()
    with locked(RunFolder(tmp_path)):
        pass


def test_room_that_a_killed_run_held_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path, num_steps=1)
    assert Reserve(folder.reserve).take(5000)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(9000, 8000, 1000))
    create(tmp_path, resume=True, min_free_bytes=6000)
    with pytest.raises(RunError, match="No space left"):
        create(tmp_path, resume=True, min_free_bytes=6001)


def test_what_is_not_a_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no such folder"):
        open_run(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"it is a file\. Give the output_dir"):
        open_run(tmp_path / "file")
    (tmp_path / "file").unlink()
    with pytest.raises(RunError, match=r"neither run\.json nor metrics\.jsonl"):
        open_run(tmp_path)


def test_a_run_in_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").touch()
    assert open_run("~/run").path == tmp_path / "run"
