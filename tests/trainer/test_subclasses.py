"""Subclasses: what groupwise calls may be extended, and what it never calls is an error when the class is made."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from api_helpers import ROWS, config, short
from histories import history
from tiny import tiny_model, tiny_tokenizer

from groupwise import GRPOTrainer
from groupwise.config.compat.trainer_names import CALLED, MEMBERS
from groupwise.errors import ConfigError


def made(kind: type, folder: Path, *arguments: Any, **settings: Any) -> Any:
    rest = {"processing_class": tiny_tokenizer(chat=True), "eval_dataset": ROWS[:2]}
    return kind(*arguments, tiny_model(), short, config(folder, **settings), ROWS, **rest)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("compute_loss", r"policy_loss=\.\.\."),
        ("_compute_loss", "trust_region"),
        ("_calculate_rewards", "the reward functions get all completions of a step"),
        ("_generate_and_score_completions", "groupwise's own engine samples"),
        ("_prepare_inputs", "groupwise's own engine samples"),
        ("training_step", "the events of a callback"),
        ("get_train_dataloader", "there is no data loader"),
        ("_get_train_sampler", "there is no data loader"),
        ("create_optimizer", r"optimizers=\(optimizer, scheduler\)"),
        ("_save_checkpoint", "on_save"),
        ("beta", r"args\.beta"),
        ("model", "it is set when the trainer is made"),
    ],
)
def test_an_override_that_is_never_called_is_an_error(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"Mine\.{name} would have no effect, .*{says}"):
        type("Mine", (GRPOTrainer,), {name: lambda self, *args, **kwargs: None})


def test_so_it_is_in_a_class_that_is_mixed_in_and_for_every_name_of_the_table() -> None:
    class Mixin:
        def compute_loss(self, model: Any, inputs: Any) -> None: ...

    with pytest.raises(ConfigError, match=r"Mixin\.compute_loss"):
        type("Mine", (Mixin, GRPOTrainer), {})
    never = [n for n, entry in MEMBERS.items() if n not in CALLED and entry.kind != "ignored"]
    assert len(never) > 100
    for name in never:
        with pytest.raises(ConfigError):
            type("Mine", (GRPOTrainer,), {name: None})


def test_what_is_only_without_effect_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        type("Mine", (GRPOTrainer,), {"_name": "Mine", "_tag_names": ["mine"]})
    assert caplog.messages == ["Mine._name has no effect: the model card names the algorithm by its objective."]


def test_a_name_that_groupwise_needs_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="Mine defines _make_run, which groupwise needs itself"):
        type("Mine", (GRPOTrainer,), {"_make_run": None})


class Extended(GRPOTrainer):
    """Extends everything that is called, and has members of its own."""

    own_constant = 3

    def __init__(self, mine: int, *args: Any, **kwargs: Any) -> None:
        self.calls: list[str] = []
        super().__init__(*args, **kwargs)
        self.mine = mine
        self.num_generations = self.args.num_generations

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.calls.append("log")
        super().log({**logs, "mine": float(self.helper())}, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.calls.append("evaluate")
        return {**super().evaluate(*args, **kwargs), "eval_mine": 2.0}

    def save_model(self, output_dir: Any = None, _internal_call: bool = False) -> Path:
        self.calls.append("save_model")
        folder = super().save_model(output_dir, _internal_call)
        (folder / "mine.txt").write_text("mine")
        return folder

    def helper(self) -> int:
        return self.mine + self.own_constant


def test_what_is_called_can_be_extended(tmp_path: Path) -> None:
    run = made(Extended, tmp_path, 4, eval_steps=1, metric_for_best_model="eval_reward", load_best_model_at_end=True)
    run.train()
    assert run.calls == ["log", "evaluate", "log"] * 2 + ["log", "save_model"]
    assert [entry["mine"] for entry in run.state.log_history] == [7.0] * 5
    assert "train_runtime" in run.state.log_history[-1]
    assert [record["eval_mine"] for record in history(tmp_path)] == [2.0, 2.0]
    assert all("mine" not in record for record in history(tmp_path)), "the record keeps one definition a key"
    assert (tmp_path / "final" / "mine.txt").is_file()
    assert (tmp_path / "final" / "config.json").is_file()


def test_an_extended_evaluation_decides_which_model_is_best(tmp_path: Path) -> None:
    class Falling(GRPOTrainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            found = super().evaluate(*args, **kwargs)
            return {**found, "eval_reward": -float(self.state.global_step)}

    run = made(Falling, tmp_path, eval_steps=1, load_best_model_at_end=True)
    run.train()
    assert (run.state.best_global_step, run.state.best_metric) == (1, -1.0)


def test_extending_without_a_change_changes_nothing(tmp_path: Path) -> None:
    class Same(GRPOTrainer):
        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            super().log(logs, start_time)

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return super().evaluate(*args, **kwargs)

    for kind in (Same, GRPOTrainer):
        made(kind, tmp_path / kind.__name__, eval_steps=1).train()
    assert history(tmp_path / "Same") == history(tmp_path / "GRPOTrainer")
