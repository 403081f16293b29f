"""Thirty programs for TRL with only the import changed: each runs and means the same, or an error says what to do.

What TRL itself makes of them is in programs_in_trl.json (trl_programs.py).
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import hub_stub
import program_space as space
import pytest
import transformers

from groupwise.cli import main as command
from groupwise.errors import ConfigError, DataError
from groupwise.trl import GRPOConfig

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the Hub client's own

IN_TRL: dict[str, Any] = json.loads(space.REFERENCE.read_text())
OF_OTHER_CLOCKS = {"step_time", "total_flos"}
OF_PASSES = {f"clip_ratio/{name}" for name in ("low_mean", "low_min", "high_mean", "high_max", "region_mean")}
NOT_EVALUATED = {f"eval_{name}" for name in ("entropy", "kl", "num_tokens", *OF_PASSES)}
"""What TRL measures by passes of the learner over held-out completions; groupwise makes none."""


@dataclass(frozen=True)
class Runs:
    """The program runs, and its numbers are TRL's."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """What its configuration must have, read back under TRL's names."""
    updates: int = 1
    """Optimizer steps of TRL for each step here."""
    evaluations: int = 0
    """Calls of evaluations here that are as large as those of training."""
    parts: int = 1
    """Reward calls of TRL for each call here: it does not follow a batch that is assigned after construction."""
    notes: tuple[str, ...] = ()
    """Words of notes about settings that have no effect."""
    more: Callable[[dict[str, Any]], None] = lambda names: None
    is_refused_by_trl: bool = False
    """Whether TRL refuses the chat template of this model, which writes no tools; here a text shows them."""


@dataclass(frozen=True)
class Refused:
    """The program ends in this error, which has these words."""

    error: type[Exception]
    words: tuple[str, ...]


def _quick_start(names: dict[str, Any]) -> None:
    args = names["trainer"].args
    assert (args.learning_rate, args.num_train_epochs, args.output_dir) == (1e-6, 3, "trainer_output")


def _reward_kinds(names: dict[str, Any]) -> None:
    seen, log = names["SEEN"], names["trainer"].state.log_history
    assert seen["ids"] is int
    assert seen["steps"] == [0, 1, 2]
    assert {"ground_truth", "task", "completion_ids", "trainer_state", "log_extra", "log_metric"} <= seen["keywords"]
    entries = [entry for entry in log if "reward" in entry]
    assert [entry["stage"] for entry in entries] == [0, 1, 1]
    assert [entry["rewards/by_keywords/mean"] for entry in entries] == [0, 1, 2]
    assert all(entry["longest"] > 0 and entry["rewards/patient/mean"] == 0.5 for entry in entries)


def _script(names: dict[str, Any]) -> None:
    assert names["trainer"].hub_model_id == "me/model"
    assert names["trainer"].model.peft_config["default"].r == 16
    assert Path("script/adapter_config.json").is_file()


def _course(names: dict[str, Any]) -> None:
    assert isinstance(names["generated_text"], str)
    assert Path("SmolGRPO/config.json").is_file()


def _cookbook(names: dict[str, Any]) -> None:
    assert names["train_result"].metrics["train_runtime"] > 0
    assert Path("Qwen2-0.5B-GRPO-test/adapter_config.json").is_file()


def _mini_r1(names: dict[str, Any]) -> None:
    assert names["metrics"]["train_samples"] == 6
    log = names["trainer"].state.log_history
    assert [entry["step"] for entry in log if "reward" in entry] == [1, 2, 3, 4, 5, 6]
    rates = {entry["step"]: entry["learning_rate"] for entry in log if "reward" in entry}
    assert rates[5] > rates[6] > 0, "resumed to more steps, the schedule goes on; TRL has a step without a rate"
    assert (Path("mini-r1") / "checkpoint-6").is_dir()
    for name in ("train_results.json", "all_results.json", "trainer_state.json", "README.md", "model.safetensors"):
        assert (Path("mini-r1") / name).is_file(), name


def _open_r1(names: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    assert names["SAVED"] == [1, 2]
    assert names["evaluation"]["eval_samples"] == 2
    assert names["evaluation"]["eval_reward"] is not None
    assert names["training_args"].benchmarks == []
    assert names["training_args"].system_prompt == "think first"
    AutoModelForCausalLM.from_pretrained("open-r1")
    json.loads(Path("open-r1/run.json").read_text())


def _callback(names: dict[str, Any]) -> None:
    logged = names["mlflow"].LOGGED
    assert [step for step, _ in logged] == [2, 4, 4]
    assert set(logged[0][1]) == set(names["names"])


def _notebook(names: dict[str, Any]) -> None:
    assert names["runtime"].endswith(" bytes")


def _named_rewards(names: dict[str, Any]) -> None:
    assert names["names"][0] == "match_format_exactly"
    assert len(names["names"]) == 4
    assert Path("grpo-advanced/saved/adapter_model.safetensors").is_file()
    assert Path("grpo-advanced/checkpoint-2").is_dir()


def _resumed(names: dict[str, Any]) -> None:
    log = names["trainer"].state.log_history
    assert [entry["step"] for entry in log if "reward" in entry] == [2, 4]


def _equal_means(names: dict[str, Any]) -> None:
    for entry in names["trainer"].state.log_history:
        means = [value for key, value in entry.items() if key.startswith("rewards/") and key.endswith("/mean")]
        assert len(means) in (0, 5)
        assert max(means, default=0) - min(means, default=0) < 1e-5


def _medical(names: dict[str, Any]) -> None:
    evaluated = [entry for entry in names["trainer"].state.log_history if "eval_reward" in entry]
    assert [entry["step"] for entry in evaluated] == [2, 4, 6, 6]
    assert names["evaluation"].items() <= evaluated[-1].items() | {"epoch": 1.0}.items()
    assert [Path(f"medical/checkpoint-{step}").is_dir() for step in (3, 6)] == [True, True]
    assert Path("medical/eval_results.json").is_file()


def _averaged(names: dict[str, Any]) -> None:
    assert names["trainer"].callback_handler.callbacks[-1].num_updates == 2


TRL_DEFAULTS = {"beta": 0.0, "loss_type": "dapo", "num_generations": 8, "per_device_train_batch_size": 8}
NO_VLLM = "own engine samples"
OUTCOMES: dict[str, Runs | Refused] = {
    "01": Runs(TRL_DEFAULTS, more=_quick_start),
    "02": Runs({**TRL_DEFAULTS, "logging_steps": 10, "gradient_checkpointing": True}),
    "03": Runs(more=_reward_kinds),
    "04": Runs({"beta": 0.0, "learning_rate": 1e-5}, more=_script),
    "05": Runs({"learning_rate": 2e-5, "beta": 0.0}, notes=("adamw_8bit",), more=_course),
    "06": Runs({"beta": 0.0, "per_device_train_batch_size": 8}, more=_cookbook),
    "07": Refused(ConfigError, ("num_generations 16", "gradient_accumulation_steps")),
    "08": Runs(
        {"beta": 0.001, "lr_scheduler_type": "cosine", "learning_rate": 5e-7, "warmup_steps": 0.25, "seed": 42},
        more=_mini_r1,
    ),
    "09": Refused(ConfigError, ("= 1 completions", "num_generations 8", "Set")),
    "10": Runs({"temperature": 0.7, "seed": 7, "reward_weights": [1.0, 2.0]}, notes=(NO_VLLM,), more=_open_r1),
    "11": Runs(is_refused_by_trl=True),
    "12": Runs(is_refused_by_trl=True),
    "13": Runs({"beta": 0.05, "num_generations": 2}, updates=4, notes=(NO_VLLM,)),
    "14": Runs({"learning_rate": 2e-5, "num_generations": 8}, more=_notebook),
    "15": Runs({"learning_rate": 5e-6, "warmup_steps": 1}, more=_named_rewards),
    "16": Runs({"learning_rate": 1e-5}, notes=(NO_VLLM,)),
    "17": Runs(TRL_DEFAULTS, more=_callback),
    "18": Runs({"num_generations": 4}),
    "19": Refused(DataError, ("image", "text")),
    "20": Refused(ConfigError, ("compute_loss", "policy_loss")),
    "21": Runs({"beta": 0.04}, more=_resumed),
    "22": Runs({"reward_weights": [1.0, 0.5, 0.5, 0.5, 0.5]}, more=_equal_means),
    "23": Runs(
        {"num_train_epochs": 1, "beta": 0.0, "loss_type": "dapo", "eval_steps": 2, "num_generations_eval": 2},
        evaluations=4,
        more=_medical,
    ),
    "24": Runs({"num_generations": 4, "report_to": []}, notes=(NO_VLLM,)),
    "25": Refused(ConfigError, ("fp16", "bf16=True")),
    "26": Refused(ConfigError, ("= 1 completions", "num_generations 4", "Set")),
    "27": Runs({"beta": 0.1, "loss_type": "dr_grpo", "learning_rate": 1e-4, "num_generations": 2}, parts=2),
    "28": Runs({**TRL_DEFAULTS, "logging_steps": 1}, more=_averaged),
}
FILES: dict[str, dict[str, str]] = {
    "29": {"dataset_name": "data", "use_peft": "lora", "model_name_or_path": "model", "reward_funcs": "rewards"},
    "30": {"base_model": "model", "datasets": "data", "adapter": "lora", "micro_batch_size": "per_device"},
}
"""YAML files of other programs, which `groupwise train` refuses: their keys, and the key to write instead."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with model and data, the stand-ins on the path, and a Hub in this process."""
    monkeypatch.syspath_prepend(str(space.HERE / "stand_ins"))
    monkeypatch.syspath_prepend(str(space.HERE / "stand_ins_of_trl"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    space.make_space(tmp_path)
    levels = datasets.logging.get_verbosity(), transformers.logging.get_verbosity()
    with hub_stub.running(monkeypatch), space.inside(tmp_path):
        yield tmp_path
    datasets.logging.set_verbosity(levels[0])
    transformers.logging.set_verbosity(levels[1])


@pytest.mark.parametrize("number", OUTCOMES)
def test_a_program_runs_as_with_trl_or_is_told(number: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    outcome, lines = OUTCOMES[number], space.lines_of(number)
    caplog.set_level(logging.INFO, logger="groupwise")
    if isinstance(outcome, Refused):
        with pytest.raises(outcome.error) as caught:
            space.start(space.source(number), lines[0])
        assert all(words in str(caught.value) for words in outcome.words), caught.value
        return
    for line, in_trl in zip(lines, IN_TRL[number], strict=True):
        names = space.start(space.source(number), line)
        if outcome.is_refused_by_trl:
            assert "chat template does not support tool calling" in in_trl["error"]
            assert names["trainer"].state.global_step > 0
            continue
        _compare(space.meaning(names), in_trl, outcome)
    args = names["trainer"].args
    assert {name: getattr(args, name) for name in outcome.settings} == dict(outcome.settings)
    assert all(words in caplog.text for words in outcome.notes)
    outcome.more(names)


def _compare(here: Mapping[str, Any], in_trl: Mapping[str, Any], outcome: Runs) -> None:
    """Steps, epochs, reward calls, learning rates and the keys of the log are those of TRL."""
    assert here["global_step"] * outcome.updates == in_trl["global_step"]
    assert here["epoch"] == pytest.approx(in_trl["epoch"])
    if in_trl["calls"] is not None:
        calls, parts = _of_training(in_trl["calls"]), outcome.parts
        mine = _of_training(here["calls"])
        assert mine[: len(mine) - outcome.evaluations] == [
            sum(calls[i : i + parts]) for i in range(0, len(calls), parts)
        ]
    assert set(in_trl["keys"]) - set(here["keys"]) - OF_OTHER_CLOCKS - NOT_EVALUATED == set()
    assert set(in_trl["last"]) - set(here["last"]) - OF_OTHER_CLOCKS - NOT_EVALUATED == set()
    if outcome.updates == 1:
        assert [step for step, _ in here["learning_rates"]] == [step for step, _ in in_trl["learning_rates"]]
        # after a resume to more steps TRL logs a rate of 0 once, which is where the shorter schedule had ended
        pairs = zip(here["learning_rates"], in_trl["learning_rates"], strict=True)
        assert all(mine == pytest.approx(other) for (_, mine), (step, other) in pairs if other > 0 or step == 1)


def _of_training(calls: list[int]) -> list[int]:
    """The large calls: evaluation has other groups, and TRL cuts it into batches."""
    return [size for size in calls if size == max(calls)]


SHAPES = {
    "compute_loss": "policy_loss",
    "_compute_loss": "policy_loss",
    "_generate_and_score_completions": "own engine samples",
    "_calculate_rewards": "reward functions",
    "_prepare_inputs": "own engine samples",
    "training_step": "callback",
    "get_train_dataloader": "shuffle_dataset",
    "_get_train_sampler": "shuffle_dataset",
    "create_optimizer": "optimizers=(optimizer, scheduler)",
}
"""Methods that public subclasses override -> what does it here."""


@pytest.mark.parametrize("method", SHAPES)
def test_an_override_that_is_never_called_is_an_error(method: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match="no effect") as caught:
        space.start(space.source("20"), method)
    assert method in str(caught.value)
    assert SHAPES[method] in str(caught.value)


def test_an_override_of_log_is_called(folder: Path) -> None:
    names = space.start(space.source("20"), "log")
    assert names["CALLS"] == ["log"] * 3  # two steps and the end


@pytest.mark.parametrize("number", ["01", "04", "13", "14", "28"])
def test_a_name_of_trl_alone_is_told_where_trl_is_missing(
    number: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groupwise.trl.names.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install trl"):
        space.start(space.source(number), space.lines_of(number)[0])


@pytest.mark.parametrize("module", ["trainer.grpo_config", "extras.vllm_client", "experimental.openenv"])
def test_a_module_of_trl_alone_is_told(module: str) -> None:
    top = module.split(".", maxsplit=1)[0]
    with pytest.raises(ModuleNotFoundError, match=rf"groupwise\.trl\.{top}: GRPOConfig.*from trl\.{top} import"):
        importlib.import_module(f"groupwise.trl.{module}")


def test_every_loss_of_trl_is_taken_under_its_defaults() -> None:
    for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"):
        assert GRPOConfig(loss_type=loss_type).loss_type == loss_type
    assert GRPOConfig(loss_type="vespo").objective.mismatch == "none"
    assert GRPOConfig(loss_type="vespo", vllm_importance_sampling_mode="token_mask").objective.mismatch == "token_mask"


@pytest.mark.parametrize("number", FILES)
def test_the_yaml_of_another_program_is_refused_with_hints(
    number: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(["train", str(space.source(number))])
    text = " ".join(capsys.readouterr().err.split())
    assert ended.value.code
    for key, instead in FILES[number].items():
        assert f'unknown key "{key}"' in text
        assert instead in text.split(f'unknown key "{key}"', 1)[1][:80], key


def test_every_program_has_an_outcome() -> None:
    numbers = {path.name[:2] for path in space.PROGRAMS.iterdir() if path.suffix in (".py", ".yaml")}
    assert numbers == {*OUTCOMES, *FILES}
    assert len(numbers) == 30
    assert sum(isinstance(outcome, Runs) for outcome in OUTCOMES.values()) >= 22
