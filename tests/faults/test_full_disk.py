"""A disk that is really full: a file system of a few megabytes in memory, mounted for the test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from histories import completions, history, token_records

from faults.recipes import letters, make_trainer
from groupwise.errors import RunError
from groupwise.runs import folder as run_folder
from groupwise.runs.disk import DiskFullError, free_bytes, whole_folder
from groupwise.runs.folder import RunFolder
from groupwise.runs.manifest import check
from groupwise.runs.reader import RunReader

NAME = "full, mu 2 x 2"


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty disk of 4 MiB."""
    monkeypatch.setattr(run_folder, "MIN_FREE_BYTES", 0)
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip("may not mount a file system")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path, *, but: int = 0) -> Path:
    """Take all the room that is left, but so many bytes."""
    rest = disk / "somebody-elses"
    size = free_bytes(disk) - but
    rest.write_bytes(b"x" * (size + (rest.stat().st_size if rest.exists() else 0)))
    return rest


def filling(disk: Path, call: int, but: int) -> Any:
    """`letters`, while somebody fills the disk at that call."""
    calls = 0

    def reward(completions: list[str], **columns: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == call:
            fill(disk, but=but)
        return letters(completions)

    reward.__name__ = "letters"
    return reward


@pytest.mark.parametrize("but", [0, 4096], ids=["no room", "a page"])
def test_a_full_disk_loses_no_finished_step_and_no_checkpoint(disk, tmp_path, but):
    """Somebody fills the disk in the third step; the room that was held takes the checkpoint of the last whole step."""
    make_trainer(NAME, tmp_path / "whole", save_steps=2).train()
    with pytest.raises(RunError, match="No space left on the disk") as caught:
        make_trainer(NAME, disk / "run", filling(disk, 3, but), save_steps=2).train()
    folder = RunFolder(disk / "run")
    for step in folder.checkpoint_steps():
        check(folder.checkpoint_of(step))
    assert folder.checkpoint_steps()[-1] >= 3, f"the third step was done: {caught.value}"
    (disk / "somebody-elses").unlink()
    make_trainer(NAME, disk / "run", save_steps=2).train(resume_from_checkpoint=True)
    assert history(disk / "run") == history(tmp_path / "whole")
    assert completions(disk / "run") == completions(tmp_path / "whole")
    assert token_records(disk / "run") == token_records(tmp_path / "whole")


def test_no_room_for_the_next_checkpoint_is_told_at_once(disk, monkeypatch):
    """Not 500 steps later, when it is due."""
    monkeypatch.setattr("groupwise.trainer._bytes_to_save", lambda model: 0)
    fill(disk, but=150_000)
    with pytest.raises(RunError, match=r"No space left on the disk while writing .*checkpoint-7\": [\d,]+ bytes more"):
        make_trainer(NAME, disk / "run", save_steps=500).train()
    events = RunReader(disk / "run").events()
    assert [e["kind"] for e in events[:2]] == ["start", "warning"]
    assert re.fullmatch(
        r"The disk has no room for the next checkpoint: [\d,]+ bytes more are needed\.", events[1]["message"]
    )
    assert len(history(disk / "run")) == 7, "the records are kept"


def test_a_folder_that_does_not_fit_leaves_the_old_one(disk):
    target = disk / "final"
    with whole_folder(target, 10) as scratch:
        (scratch / "a").write_bytes(b"old")
    fill(disk, but=8192)
    with pytest.raises(DiskFullError, match="No space left"), whole_folder(target, 10) as scratch:
        (scratch / "a").write_bytes(b"x" * 100_000)
    with pytest.raises(DiskFullError, match="bytes more are needed"), whole_folder(target, 100_000):
        pytest.fail("it is known not to fit")
    assert [(p.name, p.read_bytes()) for p in target.iterdir()] == [("a", b"old")]
    assert sorted(p.name for p in disk.iterdir()) == ["final", "somebody-elses"]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may enter."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_a_folder_that_may_not_be_written_any_more_ends_the_run_in_words(shared):
    """Root, whom permissions do not stop, becomes somebody else in the middle of the third step."""
    calls = 0

    def reward(completions: list[str], **columns: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 3:
            for path in (shared / "run", shared / "run/completions"):
                path.chmod(0o555)
            if os.geteuid() == 0:
                os.seteuid(65534)
        return letters(completions)

    user = os.geteuid()
    try:
        with pytest.raises(RunError, match=r'Cannot write ".*step-000003.tokens.safetensors": Permission denied\.'):
            make_trainer(NAME, shared / "run", reward, save_steps=2).train()
    finally:
        os.seteuid(user)
        for path in (shared / "run", shared / "run/completions"):
            path.chmod(0o755)
    assert RunFolder(shared / "run").checkpoint_steps()[0] == 2
    check(RunFolder(shared / "run").checkpoint_of(2))
    make_trainer(NAME, shared / "run", letters, save_steps=2).train(resume_from_checkpoint=True, allow_changes=True)
    assert [record["step"] for record in history(shared / "run")] == list(range(1, 8))
