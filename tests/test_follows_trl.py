"""A trainer made with the names of `groupwise.trl`, and what becomes of its arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import ROWS, SETTINGS, config, short
from histories import StopAfter
from tiny import tiny_model, tiny_tokenizer
from transformers import TrainerCallback

from groupwise import GRPOConfig, GRPOTrainer
from groupwise.errors import ConfigError, DataError
from groupwise.runs.reader import RunReader


def test_a_trainer_that_follows_trl_records_it_and_resumes_exactly(tmp_path: Path) -> None:
    """Five rows and two prompts a step: each epoch has two steps, and the fifth row of its order is left out."""
    from groupwise.trl import GRPOConfig as TrlConfig
    from groupwise.trl import GRPOTrainer as TrlTrainer

    def make(name: str, **settings: Any) -> Any:
        written = {**SETTINGS, "max_steps": -1, "num_train_epochs": 2, "save_steps": 1, **settings}
        args = TrlConfig(str(tmp_path / name), **written)
        return TrlTrainer(tiny_model(), short, args, ROWS[:5], processing_class=tiny_tokenizer(chat=True))

    whole = make("whole")
    assert whole.train().global_step == 4
    assert whole.state.epoch == 2
    assert RunReader(tmp_path / "whole").config["recipe"]["conventions"] == "trl"
    part = make("part")
    part.add_callback(StopAfter(3))
    part.train()
    again = make("part")
    assert again.train(resume_from_checkpoint=True).global_step == 4
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))
    with pytest.raises(ConfigError, match=r"args = args.replace\(seed=1\)"):
        again.args.seed = 1


def test_a_trainer_of_trls_name_has_trls_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from groupwise.trl import GRPOTrainer as TrlTrainer
    from groupwise.trl import RLOOTrainer

    monkeypatch.chdir(tmp_path)
    for kind, batch in ((TrlTrainer, (1, 8)), (RLOOTrainer, (4, 2))):
        model = tiny_model(max_position_embeddings=1024)
        args = kind(model, short, train_dataset=ROWS, processing_class=tiny_tokenizer(chat=True)).args
        assert (args.prompts_per_step, args.num_generations, args.conventions) == (*batch, "trl")


def test_a_failed_start_leaves_the_arguments_open(tmp_path: Path) -> None:
    args = config(tmp_path)
    with pytest.raises(DataError):
        GRPOTrainer(tiny_model(), short, args, [{"text": "no prompt"}], processing_class=tiny_tokenizer(chat=True))
    args.seed = 5
    made = GRPOTrainer(tiny_model(), short, args, ROWS, processing_class=tiny_tokenizer(chat=True))
    assert made.parts.config.seed == 5


def test_own_fields_of_the_arguments_reach_the_callbacks(tmp_path: Path) -> None:
    class Config(GRPOConfig):
        benchmark: str = "none"

    class Reads(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append((args.benchmark, args.per_device_train_batch_size))

    seen: list[Any] = []
    args = Config(str(tmp_path), benchmark="math", **SETTINGS)
    rest = {"processing_class": tiny_tokenizer(chat=True), "callbacks": [Reads]}
    GRPOTrainer(tiny_model(), short, args, ROWS, **rest).train()
    assert seen == [("math", 4)]
