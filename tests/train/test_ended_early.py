"""The last line of a run that ends before its last step: who ended it, and what goes on with it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from api_helpers import ROWS, short, trainer
from histories import StopAfter
from transformers import EarlyStoppingCallback, TrainerCallback

from groupwise.errors import GuardError
from groupwise.runs.folder import RunFolder

GOES_ON = "trainer.train(resume_from_checkpoint=True)"


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [event for event in found if event["kind"] == kind]


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def signalling(number: int) -> Any:
    """A reward in whose second call a signal comes."""
    calls: list[int] = []

    def reward(completions: list[str], **columns: Any) -> list[float]:
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(number)
        return short(completions)

    return reward


def constant(completions: list[str], **columns: Any) -> list[float]:
    return [1.0] * len(completions)


def test_a_callback_is_named_on_screen_and_in_the_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = [TrainerCallback(), StopAfter(2), TrainerCallback()]
    trainer(tmp_path, rest={"callbacks": callbacks}, max_steps=4).train()
    assert last_line(capsys) == f"Ended by callback StopAfter. To go on from the checkpoint of step 2: {GOES_ON}"
    assert [(e["step"], e["callback"]) for e in events(tmp_path, "stopped")] == [(2, "StopAfter")]


def test_early_stopping_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = {"callbacks": [EarlyStoppingCallback(early_stopping_patience=1)], "eval_dataset": ROWS[:2]}
    best = {"metric_for_best_model": "eval_reward", "eval_steps": 1}
    trainer(tmp_path, rewards=constant, rest=rest, max_steps=4, **best).train()
    assert last_line(capsys).startswith("Ended by callback EarlyStoppingCallback. To go on from the checkpoint of")
    assert [e["callback"] for e in events(tmp_path, "stopped")] == ["EarlyStoppingCallback"]


def test_what_goes_on_with_a_run_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(tmp_path, rest={"callbacks": [StopAfter(2)]}, max_steps=4)
    run.train()
    eval(last_line(capsys).split(": ")[1], {"trainer": run})
    assert run.state.global_step == 4
    assert last_line(capsys).startswith("records"), "a run that is complete has nothing to go on with"


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "SIGINT (Ctrl-C)"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]
)
def test_a_signal_is_named(number: int, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, rewards=signalling(number), max_steps=4).train()
    assert last_line(capsys) == f"Ended by {name}. To go on from the checkpoint of step 2: {GOES_ON}"
    assert events(tmp_path, "stopped") == []


def test_a_guard_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guards = {"no_signal": {"action": "stop", "steps": 2}}
    with pytest.raises(GuardError):
        trainer(tmp_path, rewards=constant, max_steps=4, guards=guards).train()
    assert last_line(capsys) == f"Ended by guard no_signal. To go on from the checkpoint of step 2: {GOES_ON}"


@pytest.mark.parametrize(("num_good", "says"), [(1, f" To go on from the checkpoint of step 1: {GOES_ON}"), (0, "")])
def test_nothing_goes_on_from_what_a_guard_does_not_trust(
    num_good: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def fails(completions: list[str], **columns: Any) -> list[float]:
        calls.append(1)
        return constant(completions) if len(calls) > num_good else [float(i) for i, _ in enumerate(completions)]

    guards = {"no_signal": {"action": "rollback", "steps": 2}}
    with pytest.raises(GuardError):
        trainer(tmp_path, rewards=fails, max_steps=6, save_steps=1, guards=guards).train()
    assert RunFolder(tmp_path).checkpoint_steps() == [1]
    assert last_line(capsys) == f"Ended by guard no_signal.{says}"


def test_only_the_first_who_asks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = {"callbacks": [StopAfter(2)]}
    trainer(tmp_path, rewards=signalling(signal.SIGTERM), rest=rest, max_steps=4).train()
    assert last_line(capsys).startswith("Ended by SIGTERM.")
    assert events(tmp_path, "stopped") == []


def test_a_callback_that_stops_at_the_last_step_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(tmp_path, rest={"callbacks": [StopAfter(2)]}, max_steps=2).train()
    assert last_line(capsys).startswith("records")


def test_a_wish_from_outside_of_every_event_has_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A callback that keeps the control object may set its flag whenever it likes."""

    class Keeps(TrainerCallback):
        control: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.control = control

    keeper = Keeps()

    def reward(completions: list[str], **columns: Any) -> list[float]:
        keeper.control.should_training_stop = True
        return short(completions)

    trainer(tmp_path, rewards=reward, rest={"callbacks": [keeper]}, max_steps=4).train()
    assert last_line(capsys).startswith("Ended by a callback. To go on from the checkpoint of step 1")


def test_a_run_that_breaks_off_says_how_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[int] = []

    def reward(completions: list[str], **columns: Any) -> list[float]:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return short(completions)

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, rewards=reward, max_steps=4, save_steps=1).train()
    checkpoint = RunFolder(tmp_path).latest_checkpoint
    assert last_line(capsys).endswith(f", and the checkpoint {checkpoint}. To go on from it: {GOES_ON}")
