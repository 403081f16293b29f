"""What a user sees who does something wrong. Every sentence stands in docs/troubleshooting.md, too."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import transformers
from api_helpers import CHATS, ROWS, config, model_folder, short, trainer, write_recipe
from peft import LoraConfig
from tiny import tiny_model, tiny_tokenizer, with_lora

from groupwise import GRPOConfig, GRPOTrainer
from groupwise.cli import main
from groupwise.errors import ConfigError, DataError, GroupwiseError, ModelError, RewardError, RunError

TROUBLESHOOTING = Path(__file__).parents[1] / "docs" / "troubleshooting.md"


class Mistake(NamedTuple):
    make: Callable[[Path], Any]
    """Makes it, in an empty folder."""
    error: type[GroupwiseError]
    says: str
    """Part of the message that holds nothing of this case's own."""


def rewarding(judge: Callable[[list[str]], Any]) -> Callable[[Path], Any]:
    """Training with a reward function that does this with its completions."""

    def strange(completions: list[str], **kwargs: Any) -> Any:
        return judge(completions)

    return lambda path: trainer(path, rewards=strange).train()


def train_frozen(path: Path) -> None:
    trainer(path, model=tiny_model().requires_grad_(False)).train()


def train_without_space(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        usage = shutil.disk_usage(path)._replace(free=2**20)
        patch.setattr("shutil.disk_usage", lambda _: usage)
        trainer(path).train()


def train_twice(path: Path) -> None:
    trainer(path, max_steps=1).train()
    trainer(path, max_steps=1).train()


def resume_nothing(path: Path) -> None:
    trainer(path).train(resume_from_checkpoint=True)


def train_one_of_two(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            patch.delenv(name, raising=False)
        trainer(path)


def train_a_folder_of_notes(path: Path) -> None:
    (path / "notes.txt").write_text("no model")
    trainer(path / "run", model=str(path), rest={"processing_class": None})


def asks_for_gold(completions: list[str], gold: list[str]) -> list[float]:
    raise AssertionError("never called")


def context_of(tokens: int) -> Callable[[Path], Any]:
    return lambda path: trainer(path, model=tiny_model(max_position_embeddings=tokens), max_completion_length=6)


MISTAKES = {
    "misspelt key": Mistake(
        lambda path: config(path, learning_rat=1.0),
        ConfigError,
        'unknown key "learning_rat". Did you mean "learning_rate"?',
    ),
    "misspelt loss": Mistake(lambda path: config(path, loss_type="gpro"), ConfigError, 'Did you mean "grpo"?'),
    "a number for a checkpoint": Mistake(
        lambda path: trainer(path).train(resume_from_checkpoint=2),
        ConfigError,
        "expected True for the latest checkpoint, or the folder of one",
    ),
    "misspelt argument": Mistake(
        lambda path: GRPOTrainer(tiny_model(), short, agrs=config(path), train_dataset=ROWS),
        ConfigError,
        'GRPOTrainer has no argument "agrs". Did you mean "args"?',
    ),
    "another trainer's arguments": Mistake(
        lambda path: GRPOTrainer(tiny_model(), short, transformers.TrainingArguments(str(path)), ROWS),
        ConfigError,
        "expected groupwise.GRPOConfig. It takes the same arguments: change the import.",
    ),
    "an adapter as a dict": Mistake(
        lambda path: trainer(path, rest={"peft_config": {"r": 4}}),
        ConfigError,
        "(dict); expected a configuration of peft, such as peft.LoraConfig(",
    ),
    "evaluations of nothing": Mistake(
        lambda path: trainer(path, eval_steps=1), ConfigError, ": there are no held-out problems to evaluate on."
    ),
    "no data": Mistake(
        lambda path: GRPOTrainer(tiny_model(), short, config(path)), ConfigError, "needs train_dataset."
    ),
    "missing prompt column": Mistake(
        lambda path: trainer(path, data=[{"question": "why?"}] * 4), DataError, "has no column 'prompt'"
    ),
    "missing reward column": Mistake(
        lambda path: trainer(path, rewards=asks_for_gold), RewardError, "and the data set has no such column"
    ),
    "empty data": Mistake(lambda path: trainer(path, data=[]), DataError, "is empty: it has no rows"),
    "data smaller than a step": Mistake(
        lambda path: trainer(path, data=ROWS[:1]), DataError, "problems, but a step draws"
    ),
    "chat without template": Mistake(
        lambda path: trainer(path, data=CHATS, rest={"processing_class": tiny_tokenizer()}),
        DataError,
        "The prompts are messages, but this model's tokenizer has no chat template.",
    ),
    "prompt longer than the context": Mistake(context_of(12), ConfigError, "tokens, but the model's context is"),
    "token beyond the embedding": Mistake(
        lambda path: trainer(path, model=tiny_model(vocab_size=8)), DataError, "but the model's embedding has"
    ),
    "too few rewards": Mistake(
        rewarding(lambda completions: [1.0]), RewardError, "return one for each, None where it cannot score one"
    ),
    "infinite reward": Mistake(
        rewarding(lambda completions: [float("inf")] * len(completions)),
        RewardError,
        "inf, which no baseline can be computed from; return a large finite number",
    ),
    "reward that is no number": Mistake(
        rewarding(lambda completions: ["good"] * len(completions)), RewardError, "which is not a number"
    ),
    "reward that raises": Mistake(rewarding(lambda completions: {}["answer"]), RewardError, "KeyError"),
    "not a model folder": Mistake(
        train_a_folder_of_notes, ModelError, "is a folder but not a model: it has no config.json"
    ),
    "model without a name": Mistake(
        lambda path: trainer(path, rest={"processing_class": None}),
        ConfigError,
        "carries no name by which its tokenizer could be found. Give the tokenizer as processing_class.",
    ),
    "adapter on an adapter": Mistake(
        lambda path: trainer(path, model=with_lora(tiny_model()), rest={"peft_config": LoraConfig(r=2)}),
        ModelError,
        "The model is a peft model already and peft_config was given too.",
    ),
    "nothing to train": Mistake(train_frozen, ModelError, "No parameter of the model is trained"),
    "one of several processes": Mistake(train_one_of_two, ConfigError, "in the environment and no RANK"),
    "no space": Mistake(train_without_space, RunError, "No space left for the run folder"),
    "folder in use": Mistake(train_twice, RunError, "already holds a run"),
    "nothing to resume": Mistake(resume_nothing, ConfigError, "has no checkpoint to resume from"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(tmp_path: Path, name: str) -> None:
    mistake = MISTAKES[name]
    with pytest.raises(mistake.error) as raised:
        mistake.make(tmp_path)
    assert mistake.says in str(raised.value)


def test_every_message_is_explained_in_the_documentation() -> None:
    text = TROUBLESHOOTING.read_text()
    assert [mistake.says for mistake in MISTAKES.values() if mistake.says not in text] == []


def test_a_failing_reward_names_itself_and_the_completion(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r'"strange" returned inf.*completion 1 of \d \(row \d of the data\): '):
        rewarding(lambda completions: [float("inf")] * len(completions))(tmp_path)


def test_what_was_finished_before_a_reward_failed_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails_late(completions: list[str], trainer_state: Any, **kwargs: Any) -> list[float]:
        if trainer_state.global_step == 2:
            raise ValueError("the server is gone")
        return short(completions)

    with pytest.raises(RewardError, match="the server is gone"):
        trainer(tmp_path, rewards=fails_late, max_steps=5, save_steps=2).train()
    said = capsys.readouterr().out
    assert f"Broken off after 2 finished steps. Kept: the records in {tmp_path}, and the checkpoint" in said
    assert [e["kind"] for e in lines(tmp_path / "events.jsonl")] == ["start", "checkpoint", "failed"]
    run = trainer(tmp_path, rewards=short, max_steps=5)
    run.train(resume_from_checkpoint=True, allow_changes=True)
    assert [m["step"] for m in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_ctrl_c_in_the_middle_of_a_step_finishes_it(tmp_path: Path) -> None:
    def presses(completions: list[str], trainer_state: Any, **kwargs: Any) -> list[float]:
        if trainer_state.global_step == 1:
            signal.raise_signal(signal.SIGINT)
        return short(completions)

    run = trainer(tmp_path, rewards=presses, max_steps=9, push_to_hub=True)  # and half a run is not published
    output = run.train()
    assert (output.global_step, run.interrupted.exit_code) == (2, 130)
    assert [m["step"] for m in lines(tmp_path / "metrics.jsonl")] == [1, 2]
    assert (tmp_path / "checkpoint-2/state/state.json").is_file()
    assert (tmp_path / "final/model.safetensors").is_file()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- what looks like a mistake and is none ---


def test_a_tokenizer_without_pad_token_works(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    run = trainer(tmp_path, rest={"processing_class": tokenizer})
    assert run.train().global_step == 2


def test_a_long_prompt_is_cut_where_that_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(tmp_path, max_prompt_length=5)
    assert run.parts.problems[2].prompt_ids == tuple(run.processing_class.encode("three", add_special_tokens=False))
    assert "6 of 6 prompts are longer than 5 tokens and were cut from the left." in capsys.readouterr().out


def test_dropout_is_announced_to_be_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, model=with_lora(tiny_model(), lora_dropout=0.5), max_steps=1).train()
    assert "lora_dropout > 0" in capsys.readouterr().out


def test_the_recorded_configuration_is_the_one_used(tmp_path: Path) -> None:
    run = trainer(tmp_path, loss_type="dr_grpo", top_k=7, warmup_ratio=0.5)
    run.train()
    recorded = json.loads((tmp_path / "run.json").read_text())["recipe"]
    ingredients = {"model", "data", "rewards", "lora"}
    assert GRPOConfig(**{k: v for k, v in recorded.items() if k not in ingredients}) == run.args


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective": "gprpo"}, 'Did you mean "grpo"?'),
        ({"data": "absent.jsonl"}, "There is no data file"),
        ({"rewards": ["lenght"]}, 'Did you mean "length"?'),
        ({"model": "./absent"}, "There is no model at ./absent"),
        ({"prompts_per_step": 0}, "expected a number of at least 1"),
        ({"data": None}, "The recipe has no data"),
        ({"rewards": None}, "There is no reward function"),
    ],
)
def test_a_mistake_in_a_recipe_ends_with_2_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], says: str
) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", model_folder(tmp_path / "base"), **changes)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(recipe)])
    err = capsys.readouterr().err
    assert (ended.value.code, err.startswith("error: "), "Traceback" in err) == (2, True, False)
    assert says in err
    assert not (tmp_path / "run-of-recipe/metrics.jsonl").exists()


@pytest.mark.slow
def test_folders_named_like_packages_do_no_harm(tmp_path: Path) -> None:
    """A wandb/ left by an earlier run, say, must not pass for the package."""
    recipe = write_recipe(tmp_path / "recipe.yaml", model_folder(tmp_path / "base"))
    for name in ("wandb", "trackio", "torchao", "vllm"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-m", "groupwise", "train", str(recipe), "--set", "report_to=tensorboard"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
