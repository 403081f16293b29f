"""Output that outlives its reader."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from api_helpers import trainer

from groupwise.streams import lasting, lasting_output


@contextmanager
def a_pipe() -> Iterator[tuple[Any, int]]:
    """A stream that writes to a pipe, buffered as standard output is, and the number of its other end."""
    reading, writing = os.pipe()
    stream = open(writing, "w", encoding="utf-8")  # noqa: SIM115  # its reader goes first
    try:
        yield stream, reading
    finally:
        stream.close()


def test_what_is_printed_arrives_as_it_would_and_in_order() -> None:
    with a_pipe() as (stream, reading):
        stream.write("before\n")
        twin = lasting(stream)
        twin.write("näher\n")
        twin.flush()
        assert os.read(reading, 100) == "before\nnäher\n".encode()
        assert (twin.encoding, twin.fileno()) == (stream.encoding, stream.fileno())
        assert twin.isatty() is False
        os.close(reading)


def test_what_cannot_be_encoded_is_printed_as_an_escape() -> None:
    with a_pipe() as (stream, reading):
        print("half a \ud800 character", file=lasting(stream))
        assert os.read(reading, 100) == b"half a \\ud800 character\n"
        os.close(reading)


@pytest.mark.parametrize("text", ["short", "long " * 100_000])
@pytest.mark.parametrize("held", ["", "still in the buffer of the first stream"])
def test_printing_goes_on_when_the_reader_has_gone(text: str, held: str) -> None:
    with a_pipe() as (stream, reading):
        stream.write(held)
        os.close(reading)
        twin = lasting(stream)
        for _ in range(3):
            print(text, file=twin)
        twin.flush()
        stream.flush()  # as the interpreter does at its end


def test_a_full_disk_drops_what_it_does_not_take_and_the_stream_stays() -> None:
    with open("/dev/full", "w", encoding="utf-8") as stream:
        print("dropped", file=lasting(stream))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            os.write(stream.fileno(), b"it still is that file")


def test_streams_of_pythons_own_are_left_alone() -> None:
    memory = io.StringIO()
    assert lasting(memory) is memory
    with a_pipe() as (stream, reading):
        twin = lasting(stream)
        assert lasting(twin) is twin
        os.close(reading)


def test_output_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    with a_pipe() as (stream, reading):
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", None)
        with lasting_output():
            assert sys.stdout is not stream
            print("inside")
            print("nowhere", file=sys.stderr)
        assert (sys.stdout, sys.stderr) == (stream, None)
        assert os.read(reading, 100) == b"inside\n"
        os.close(reading)


def printing(completions: list[str], **columns: Any) -> list[float]:
    print("printed by a reward", flush=True)
    print("printed by a reward", file=sys.stderr)
    return [float(len(completion)) for completion in completions]


def test_a_run_goes_on_when_nobody_reads_what_it_and_its_rewards_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_pipe() as (stream, reading):
        os.close(reading)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        done = trainer(tmp_path, rewards=printing, max_steps=3).train()
        assert sys.stdout is stream
    assert done.global_step == 3
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 3


def test_prints_of_a_reward_stand_between_the_lines_of_the_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with a_pipe() as (stream, reading):
        monkeypatch.setattr(sys, "stdout", stream)
        print("before")
        trainer(tmp_path, rewards=printing, max_steps=2).train()
        print("after", flush=True)
        lines = os.read(reading, 1 << 16).decode().splitlines()
        os.close(reading)
    printed = [i for i, line in enumerate(lines) if line == "printed by a reward"]
    shown = [next(i for i, line in enumerate(lines) if line.split()[:1] == [f"{step}/2"]) for step in (1, 2)]
    assert printed[0] < shown[0] < printed[1] < shown[1]
    assert (lines[0], lines[-1]) == ("before", "after")
