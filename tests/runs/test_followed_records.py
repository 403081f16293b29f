"""A growing file is read line by line, each line once; what happens to the file meanwhile does not matter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from groupwise.runs import disk, shape
from groupwise.runs.followed_records import FollowedRecords


class Follower:
    """Keeps what was handed over, as a reader does."""

    def __init__(self, path: Path) -> None:
        self.records = FollowedRecords(path, shape.metrics)
        self.steps: list[int] = []

    def look(self) -> bool:
        return self.records.look(self.steps.clear, lambda record: self.steps.append(record["step"]))


def line(step: int, **values: float) -> bytes:
    return json.dumps({"schema_version": 2, "step": step, **values}).encode() + b"\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1) + line(2))
    return path


def append(path: Path, more: bytes) -> None:
    with path.open("ab") as file:
        file.write(more)


def test_each_line_comes_once(path: Path) -> None:
    follower = Follower(path)
    assert follower.look()
    assert not follower.look()
    append(path, line(3))
    assert follower.look()
    assert follower.steps == [1, 2, 3]


def test_a_torn_line_waits_for_its_end(path: Path) -> None:
    follower, whole = Follower(path), line(3, reward=0.5)
    append(path, whole[:20])
    follower.look()
    assert follower.steps == [1, 2]
    append(path, whole[20:])
    follower.look()
    assert follower.steps == [1, 2, 3]


def test_a_torn_line_that_is_cut_off_and_written_anew(path: Path) -> None:
    follower = Follower(path)
    append(path, line(3, reward=0.5)[:20])
    follower.look()
    disk.mend_last_line(path)
    append(path, line(3, reward=0.7))
    follower.look()
    assert follower.steps == [1, 2, 3]


def test_a_resumed_run_begins_anew_with_what_is_left(path: Path) -> None:
    follower = Follower(path)
    append(path, line(3))
    follower.look()
    disk.replace(path, line(1))
    follower.look()
    append(path, line(2))
    follower.look()
    assert follower.steps == [1, 2]


def test_a_file_that_was_cut_in_place_and_has_outgrown_its_old_size(path: Path) -> None:
    follower = Follower(path)
    follower.look()
    path.write_bytes(line(1) + line(5, reward=1.0) + line(6, reward=2.0))
    follower.look()
    assert follower.steps == [1, 5, 6]


def test_a_file_that_is_deleted_and_comes_back(path: Path) -> None:
    follower = Follower(path)
    follower.look()
    path.unlink()
    assert follower.look()
    assert follower.steps == []
    assert not follower.look()
    path.write_bytes(line(7))
    follower.look()
    assert follower.steps == [7]


@pytest.mark.parametrize(
    "damage", [b"{nonsense\n", b"[]\n", b'{"schema_version": 99, "step": 3}\n', b'{"schema_version": 2}\n']
)
def test_a_damaged_line_is_passed_over_and_named(path: Path, damage: bytes) -> None:
    follower = Follower(path)
    append(path, damage + line(4))
    follower.look()
    assert follower.steps == [1, 2, 4]
    assert str(path) in follower.records.damage
