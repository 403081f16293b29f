"""A run that breaks off saves what is exact, and goes on from there as if nothing had happened."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import ROWS, trainer
from histories import completions, history, token_records
from tiny import tiny_model

from groupwise.errors import RewardError, RunError
from groupwise.runs import disk
from groupwise.runs.folder import RunFolder
from groupwise.runs.reader import RunReader
from groupwise.train.learner import Learner

SETTINGS: dict[str, Any] = {
    "max_steps": 5,
    "num_generations": 3,
    "max_completion_length": 5,
    "learning_rate": 0.02,
    "objective": {"preset": "grpo", "baseline": "ema", "scale": "none", "beta": 0.0},
}


def letters(completions: list[str], **columns: Any) -> list[float]:
    return [float(completion.count("a") + completion.count("e")) for completion in completions]


def failing(call: int) -> Callable[..., list[float]]:
    """`letters`, whose server is gone at that call."""
    calls = 0

    def letters(completions: list[str], **columns: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == call:
            raise ValueError("the server is gone")
        return [float(completion.count("a") + completion.count("e")) for completion in completions]

    return letters


def run(folder: Path, rewards: Any = letters, *, resume: bool = False, rest: Any = None, **changes: Any) -> Any:
    grpo = trainer(folder, model=tiny_model(), rewards=rewards, rest=rest, **{**SETTINGS, **changes})
    grpo.train(resume_from_checkpoint=resume)
    return grpo


def assert_goes_on_exactly(tmp_path: Path, from_step: int, **settings: Any) -> None:
    """The run in `parts` has a checkpoint of that step, and ends as one that was never interrupted."""
    assert RunFolder(tmp_path / "parts").checkpoint_steps() == [from_step]
    whole = run(tmp_path / "whole", **settings)
    parts = run(tmp_path / "parts", resume=True, **settings)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert completions(tmp_path / "parts") == completions(tmp_path / "whole")
    assert token_records(tmp_path / "parts") == token_records(tmp_path / "whole") != {}
    mine, theirs = parts.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("settings", [{}, {"num_iterations": 2, "dynamic_sampling": True}])
def test_a_reward_that_fails_loses_no_finished_step(tmp_path, settings):
    with pytest.raises(RewardError, match="the server is gone"):
        run(tmp_path / "parts", failing(4), **settings)
    finished = len(history(tmp_path / "parts"))
    assert_goes_on_exactly(tmp_path, from_step=finished, **settings)


def test_the_first_step_has_nothing_to_save(tmp_path):
    with pytest.raises(RewardError):
        run(tmp_path, failing(1))
    assert RunFolder(tmp_path).checkpoint_steps() == []


def test_an_evaluation_that_fails_is_done_again(tmp_path):
    rest = {"eval_dataset": ROWS[:2]}
    with pytest.raises(RewardError):
        run(tmp_path / "parts", failing(4), rest=rest, eval_steps=3)  # calls: steps 1, 2, 3, then the evaluation
    assert [record["step"] for record in history(tmp_path / "parts")] == [1, 2]
    assert_goes_on_exactly(tmp_path, from_step=3, rest=rest, eval_steps=3)


def test_a_checkpoint_of_an_unfinished_step_can_be_resumed_twice(tmp_path):
    rest = {"eval_dataset": ROWS[:2]}
    with pytest.raises(RewardError):
        run(tmp_path / "parts", failing(4), rest=rest, eval_steps=3)
    for call in (1, 3):  # it fails again in the same evaluation, then in the next step
        with pytest.raises(RewardError):
            run(tmp_path / "parts", failing(call), rest=rest, eval_steps=3, resume=True)
    assert_goes_on_exactly(tmp_path, from_step=3, rest=rest, eval_steps=3)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs the names of open files")
@pytest.mark.parametrize("name", ["metrics.jsonl", "step-000003.jsonl"])
def test_a_disk_full_of_records_gives_up_the_room_it_held(tmp_path, monkeypatch, name):
    """The third step cannot be recorded; the checkpoint takes the room that was held for it, and the record too."""
    folder = RunFolder(tmp_path / "parts")
    with monkeypatch.context() as patch:
        real = disk._write_all
        lines = 0

        def write_all(fd: int, content: bytes) -> None:
            nonlocal lines
            path = os.readlink(f"/proc/self/fd/{fd}")
            lines += path.endswith("metrics.jsonl")
            is_third = lines == 3 if name == "metrics.jsonl" else name in path
            if name in path and is_third and folder.reserve.exists():
                real(fd, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            real(fd, content)

        patch.setattr(disk, "_write_all", write_all)
        with pytest.raises(RunError, match=r"No space left on the disk while writing .*: [\d,]+ bytes were refused"):
            run(tmp_path / "parts")
    assert not folder.reserve.exists()
    assert_goes_on_exactly(tmp_path, from_step=3)


def test_between_updates_of_one_rollout_there_is_nothing_exact_to_save(tmp_path, monkeypatch):
    step = Learner._optimizer_step
    calls = 0

    def out_of_memory(self: Learner, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:  # the second of the third rollout's two
            raise torch.OutOfMemoryError("out of memory")
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "_optimizer_step", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            run(tmp_path / "parts", num_iterations=2, save_steps=1)
    assert RunFolder(tmp_path / "parts").checkpoint_steps() == [1, 2]
    run(tmp_path / "parts", num_iterations=2, save_steps=1, resume=True)
    run(tmp_path / "whole", num_iterations=2, save_steps=1)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")


def test_what_stands_in_the_way_of_the_last_words_hides_no_error(tmp_path, monkeypatch, capsys):
    """A folder that has become read-only: the error that ended the run is the one that is raised."""

    def refuses(path: Path, content: bytes) -> None:
        raise RunError(f'Cannot write "{path}": Read-only file system.')

    calls = 0

    def fails(completions: list[str], **columns: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 2:
            monkeypatch.setattr(disk, "append", refuses)
            monkeypatch.setattr(disk, "replace", refuses)
            raise ValueError("the server is gone")
        return letters(completions)

    with pytest.raises(RewardError, match="the server is gone"):
        run(tmp_path, fails)
    said = " ".join(capsys.readouterr().out.split())
    assert "No checkpoint could be written on the way out. Cannot write" in said
    assert "Broken off after 1 finished step." in said


def test_where_nothing_was_finished_nothing_is_promised(tmp_path, capsys):
    def fails(completions: list[str], **_: Any) -> list[float]:
        raise ValueError("the server is gone")

    with pytest.raises(RewardError, match="the server is gone"):
        run(tmp_path, fails)
    said = " ".join(capsys.readouterr().out.split())
    assert f"Broken off before a step was finished: there is nothing to keep in {tmp_path}." in said


def test_the_clock_of_the_wall_may_go_backwards(tmp_path, monkeypatch):
    """Durations and the time left come from clocks that only go forward; events are in order by their place."""
    hours = iter(range(10**6, 0, -1))
    monkeypatch.setattr("time.time", lambda: float(next(hours) * 3600))
    run(tmp_path, max_steps=2)
    records = RunReader(tmp_path).metrics()
    assert all(0 <= record[key] < 60 for record in records for key in record if key.startswith(("time/", "step_time")))
    assert [event["kind"] for event in RunReader(tmp_path).events()] == ["start", "checkpoint", "end"]
