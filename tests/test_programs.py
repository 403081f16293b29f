"""What the program that holds a run does around it and within it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import ROWS, short, trainer
from histories import of_steps
from transformers import TrainerCallback

from groupwise.errors import ConfigError, RewardError


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("at", ["reward", "callback", "script"])
def test_the_run_stays_in_its_folder_when_the_working_directory_changes(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def leave(where: str) -> None:
        if where == at:
            monkeypatch.chdir(tmp_path / "elsewhere")

    def leaving(completions: list[str], **columns: Any) -> list[float]:
        leave("reward")
        return short(completions)

    class Leaving(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            leave("callback")

    rest = {"callbacks": [Leaving()], "eval_dataset": ROWS[:2]}
    run = trainer(Path("run"), rewards=leaving, rest=rest, max_steps=3, save_steps=1, eval_steps=2)
    leave("script")
    run.train()
    assert not list((tmp_path / "elsewhere").iterdir())
    assert [entry["step"] for entry in lines(tmp_path / "run/metrics.jsonl")] == [1, 2, 3]
    checkpoints = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    assert (tmp_path / "run/final/model.safetensors").is_file()


class OnlyWrites:
    """As editors and services put in the place of standard output: no `isatty`, no `encoding`, no `flush`."""

    def write(self, text: str) -> int:
        return len(text)


class Tee(OnlyWrites):
    """As loggers put there: it looks like a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        pass


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    "stream", [lambda: None, OnlyWrites, Tee, closed], ids=["none", "only writes", "tee", "closed"]
)
def test_a_run_needs_no_standard_output(
    stream: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout", stream())
    trainer(tmp_path, eval_steps=1, rest={"eval_dataset": ROWS[:2]}).train()
    assert [entry["step"] for entry in lines(tmp_path / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_reward_that_closes_standard_output_does_not_end_the_run(
    is_terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setattr("sys.stdout", stream)

    def closing(completions: list[str], **columns: Any) -> list[float]:
        stream.close()
        return short(completions)

    trainer(tmp_path, rewards=closing, eval_steps=1, rest={"eval_dataset": ROWS[:2]}).train()
    assert [entry["step"] for entry in lines(tmp_path / "metrics.jsonl")] == [1, 2]
    assert (tmp_path / "final/model.safetensors").is_file()


def asks_for_answers(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
    return [float(len(text)) for text in answer]


def test_held_out_problems_without_a_column_that_a_reward_asks_for_are_refused(tmp_path: Path) -> None:
    without = [{"prompt": row["prompt"]} for row in ROWS[:2]]
    said = 'takes "answer", and the evaluation data set has no such column'
    rest = {"eval_dataset": without}
    with pytest.raises(RewardError, match=said):  # before the model is looked for
        trainer(tmp_path, model="no-such-owner/no-such-model", rewards=asks_for_answers, rest=rest)
    with pytest.raises(RewardError, match=said):
        trainer(tmp_path, rewards=asks_for_answers).evaluate(without)
    trainer(tmp_path, rewards=short, rest=rest, eval_steps=1).train()  # nobody asks for it


def prompts_of(folder: Path) -> list[list[str]]:
    return [[line["prompt_ids"] for line in lines(path)] for path in sorted((folder / "completions").glob("*.jsonl"))]


def test_a_second_run_of_a_trainer_is_a_run_of_its_own(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=2, learning_rate=0.0)
    run.train()
    first, drawn = [entry["epoch"] for entry in of_steps(run.state.log_history)], prompts_of(tmp_path)
    run.train(overwrite=True)
    assert prompts_of(tmp_path) == drawn
    assert [entry["epoch"] for entry in lines(tmp_path / "metrics.jsonl")] == first
    assert [entry["step"] for entry in of_steps(run.state.log_history)] == [1, 2]
    assert run.state.epoch == first[-1]


def test_a_run_after_one_that_failed_draws_from_the_first_problem(tmp_path: Path) -> None:
    is_broken = True

    def breaks(completions: list[str], **columns: Any) -> list[float]:
        if is_broken:
            raise ValueError("not yet")
        return short(completions)

    run = trainer(tmp_path / "again", rewards=breaks)
    with pytest.raises(RewardError):
        run.train()
    is_broken = False
    run.train()
    trainer(tmp_path / "usual").train()
    assert prompts_of(tmp_path / "again") == prompts_of(tmp_path / "usual")


def test_a_callback_that_stopped_one_run_does_not_stop_the_next(tmp_path: Path) -> None:
    class StopsOnce(TrainerCallback):
        has_stopped = False

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2 and not self.has_stopped:
                self.has_stopped = control.should_training_stop = True

    run = trainer(tmp_path, max_steps=5, rest={"callbacks": [StopsOnce()]})
    run.train()
    assert run.state.global_step == 2
    run.train(resume_from_checkpoint=True)
    assert run.state.global_step == 5
    assert [entry["step"] for entry in of_steps(run.state.log_history)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"callbacks": [print]}, r"callbacks\[0\] is .*print.*; expected a TrainerCallback"),
        ({"callbacks": [TrainerCallback(), "early"]}, r"callbacks\[1\] is 'early'"),
        ({"callbacks": [dict]}, r"callbacks\[0\] is <class 'dict'>"),
        ({"callbacks": TrainerCallback()}, r"callbacks is .*; expected a list"),
        ({"optimizers": None}, r"optimizers is None; expected a pair"),
        ({"optimizers": ()}, r"optimizers is \(\); expected a pair"),
        (
            {"optimizers": (torch.optim.AdamW, None)},
            r"optimizers\[0\] is <class .*AdamW'>; expected an optimizer",
        ),
        ({"optimizers": (None, "cosine")}, r"optimizers\[1\] is 'cosine'; expected a schedule"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named_before_anything_is_loaded(
    arguments: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        trainer(tmp_path, model="no-such-owner/no-such-model", rest=arguments)


def test_a_callback_that_hears_of_nothing_is_refused_when_it_is_added(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a TrainerCallback"):
        trainer(tmp_path).add_callback(print)


def test_an_object_with_one_event_is_a_callback(tmp_path: Path) -> None:
    class Ear:
        heard = 0

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.heard += 1

    ear = Ear()
    trainer(tmp_path, rest={"callbacks": (ear,)}).train()
    assert ear.heard == 2


def test_callbacks_find_the_plan_of_the_run_in_its_state(tmp_path: Path) -> None:
    names = ("max_steps", "num_train_epochs", "logging_steps", "eval_steps", "save_steps", "train_batch_size")
    seen = []

    class Reads(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append({name: getattr(state, name) for name in names})

    settings = {"max_steps": 4, "logging_steps": 2, "eval_steps": 3, "save_steps": 2}
    run = trainer(tmp_path, rest={"callbacks": [Reads()], "eval_dataset": ROWS[:2]}, **settings)
    run.train()
    assert seen == [{**settings, "num_train_epochs": 2, "train_batch_size": 4}]  # 4 steps of 2 of 6 problems


def test_a_run_that_was_moved_finds_its_best_checkpoint(tmp_path: Path) -> None:
    rest, settings = {"eval_dataset": ROWS[:2]}, {"eval_steps": 1, "load_best_model_at_end": True}
    trainer(tmp_path / "run", rest=rest, **settings).train()
    (tmp_path / "run").rename(tmp_path / "moved")
    run = trainer(tmp_path / "moved", rest=rest, max_steps=2, **settings)
    run.train(resume_from_checkpoint=True)
    best = Path(run.state.best_model_checkpoint)
    assert best.parent == tmp_path / "moved"
    assert best.is_dir()


EVENTS = ["on_train_begin", "on_epoch_begin", "on_step_begin", "on_step_end", "on_log", "on_evaluate", "on_save"]


@pytest.mark.parametrize("event", EVENTS)
def test_a_callback_can_stop_the_run_at_every_event_of_a_step(event: str, tmp_path: Path) -> None:
    def stop(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = True

    callback = type("Stops", (TrainerCallback,), {event: stop})()
    rest = {"callbacks": [callback], "eval_dataset": ROWS[:2]}
    run = trainer(tmp_path, rest=rest, max_steps=4, eval_steps=1, save_steps=1)
    run.train()
    assert run.state.global_step == 1
