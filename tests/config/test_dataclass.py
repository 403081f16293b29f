"""`GRPOConfig` as a dataclass: parsers, subclasses, assignment, copies, and what can be read of it."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser, TrainingArguments

import groupwise.trl as trl_names
from groupwise.config import GRPOConfig, Settings
from groupwise.config.compat.attributes import NAMES, REFUSED
from groupwise.config.compat.translate import KNOWN_KEYS
from groupwise.config.keys import AS_WRITTEN, Unset
from groupwise.errors import ConfigError
from groupwise.trl import ModelConfig, ScriptArguments, TrlParser

CONFIGS = (GRPOConfig, trl_names.GRPOConfig, trl_names.RLOOConfig)


@dataclass
class WithOwnFields(GRPOConfig):
    benchmarks: list[str] = field(default_factory=list)
    learning_rate: float = 2e-5
    system_prompt: str | None = None
    seen: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen = self.num_generations


class Plain(trl_names.GRPOConfig):
    note: str = "none"
    num_generations = 4

    def __init__(self, folder: str = "x", **written: Any) -> None:
        super().__init__(folder, **written)
        self.folder = folder


def written(config: GRPOConfig) -> dict[str, Any]:
    return {name: value for name, value in config.settings.as_written.items() if value not in (None, {})}


def test_every_key_is_a_field_and_the_folder_is_the_first() -> None:
    names = [field.name for field in dataclasses.fields(GRPOConfig)]
    assert names[0] == "output_dir"
    assert set(names) == {*KNOWN_KEYS, AS_WRITTEN}
    assert all(isinstance(field.default, Unset) for field in dataclasses.fields(GRPOConfig))
    assert dataclasses.asdict(GRPOConfig(seed=3))["seed"] == 3


@pytest.mark.parametrize("config", CONFIGS)
def test_a_parser_that_gets_nothing_writes_nothing(config: type[GRPOConfig]) -> None:
    (parsed,) = HfArgumentParser(config).parse_args_into_dataclasses([])
    assert parsed == config()
    assert written(parsed) == written(config())


def test_a_parser_reads_a_command_line() -> None:
    line = (
        "--output_dir o --learning-rate 1e-5 --bf16 false --no_shuffle_dataset --gradient_checkpointing --max_steps 3"
    )
    line += ' --reward_weights 1 2 --lr_scheduler_kwargs {"num_cycles":2} --warmup_steps 0.1 --beta 0 --report_to wandb'
    (config,) = HfArgumentParser(GRPOConfig).parse_args_into_dataclasses(line.split())
    assert config == GRPOConfig(
        output_dir="o", learning_rate=1e-5, bf16=False, shuffle_dataset=False, gradient_checkpointing=True, max_steps=3,
        reward_weights=[1, 2], lr_scheduler_kwargs={"num_cycles": 2}, warmup_steps=0.1, beta=0, report_to=["wandb"],
    )  # fmt: skip


def test_the_help_has_meanings_and_the_defaults_that_are_used() -> None:
    ours, theirs = (" ".join(HfArgumentParser(c).format_help().split()) for c in CONFIGS[:2])
    for text in ("Peak learning rate", "20% or more beside its target"):
        assert text in ours
    assert "--per-device-train-batch-size PER_DEVICE_TRAIN_BATCH_SIZE" in ours
    assert "`num_generations`. (default: 64)" in ours
    assert "(default: 3.0)" in theirs
    assert "(default: 3.0)" not in ours.partition("--max_steps")[0]
    assert "--as_written" not in ours


def test_three_dataclasses_share_one_command_line() -> None:
    parser = HfArgumentParser((ScriptArguments, trl_names.GRPOConfig, ModelConfig))
    line = "--dataset_name d --dtype bfloat16 --attn_implementation eager --use_peft --lora_target_modules q v --seed 7"
    script, config, model = parser.parse_args_into_dataclasses(line.split())
    assert (script.dataset_name, config.seed, model.dtype, model.lora_target_modules) == (
        "d",
        7,
        "bfloat16",
        ["q", "v"],
    )
    assert (config.dtype, config.attn_implementation) == ("auto", None)


def test_a_file_and_a_command_line_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_NAME", raising=False)
    file = tmp_path / "config.yaml"
    file.write_text("learning_rate: 1e-5\nseed: 3\nreport_to: [wandb]\nenv: {SOME_NAME: 1}\nmodel_name_or_path: m\n")
    parser = TrlParser((ScriptArguments, GRPOConfig, ModelConfig))
    _, config, model = parser.parse_args_and_config(["--config", str(file), "--seed", "4"])
    assert (config.learning_rate, config.seed, config.report_to, model.model_name_or_path) == (1e-5, 4, ["wandb"], "m")
    assert __import__("os").environ["SOME_NAME"] == "1"
    file.write_text("learning_rte: 1e-5\n")
    with pytest.raises(ConfigError, match=r'unknown key "learning_rte"\. Did you mean "learning_rate"'):
        TrlParser(GRPOConfig).parse_args_and_config(["--config", str(file)])
    *_, rest = TrlParser(GRPOConfig).parse_args_and_config(["--config", str(file)], return_remaining_strings=True)
    assert rest == ["--learning_rte", "1e-05"]


def test_a_subclass_that_is_a_dataclass_has_fields_of_its_own() -> None:
    config = WithOwnFields("out", num_generations=4, benchmarks=["a"], dtype="float32")
    assert (config.output_dir, config.learning_rate, config.benchmarks, config.seen) == ("out", 2e-5, ["a"], 4)
    assert config.dtype == "float32", "a key that no parser has"
    assert WithOwnFields().benchmarks is not WithOwnFields().benchmarks
    assert (config.to_dict()["benchmarks"], config.to_dict()["learning_rate"]) == (["a"], 2e-5)
    assert "benchmarks" not in config.settings.resolved()
    (parsed,) = HfArgumentParser(WithOwnFields).parse_args_into_dataclasses(["--benchmarks", "x", "y"])
    assert (parsed.benchmarks, parsed.learning_rate) == (["x", "y"], 2e-5)
    with pytest.raises(ConfigError, match='WithOwnFields: unknown key "benchmark"'):
        WithOwnFields(benchmark=["a"])


def test_a_plain_subclass_has_fields_of_its_own() -> None:
    config = Plain("here", note="n", seed=1)
    assert (config.note, config.folder, config.output_dir, config.num_generations) == ("n", "here", "here", 4)
    assert (config.conventions, config.to_dict()["folder"]) == ("trl", "here")
    assert Plain(num_generations=8).num_generations == 8


@pytest.mark.parametrize(
    "config", [WithOwnFields(benchmarks=["a"], seed=2), Plain("here", note="n"), GRPOConfig(seed=2)]
)
def test_own_fields_and_the_class_survive_copies(config: GRPOConfig) -> None:
    twins = [copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config)), config.replace()]
    for twin in twins:
        assert type(twin) is type(config)
        assert twin == config
        assert twin.to_dict() == config.to_dict()
        twin.seed = 9
        assert config.seed != 9


def test_replacing_keeps_what_was_not_written_unwritten() -> None:
    config = WithOwnFields(benchmarks=["a"], per_device_train_batch_size=8, dtype="float32")
    for changed in (dataclasses.replace(config, seed=3, benchmarks=["b"]), config.replace(seed=3, benchmarks=["b"])):
        assert written(changed) == {**written(config), "seed": 3}
        assert (changed.benchmarks, changed.dtype, type(changed)) == (["b"], "float32", WithOwnFields)
    assert GRPOConfig(**dataclasses.asdict(GRPOConfig(objective="dapo", seed=4))) == GRPOConfig(
        objective="dapo", seed=4
    )


def test_attributes_are_assigned_until_a_trainer_has_them() -> None:
    config = GRPOConfig()
    config.per_device_train_batch_size = 2  # no multiple of 8: nothing is checked between two assignments
    assert (config.per_device_train_batch_size, config.num_generations) == (2, 8)
    config.num_generations = 2
    assert (config.settings.prompts_per_step, config.prompts_per_step) == (1, 1)
    config.temperature = 0
    with pytest.raises(ConfigError, match="temperature is 0"):
        config.checked()
    with pytest.raises(ConfigError, match=r'unknown key "learning_rte"\. Did you mean "learning_rate"'):
        config.learning_rte = 1
    assert GRPOConfig(per_device_train_batch_size=16).replace(num_generations=16).prompts_per_step == 1


def test_a_mapping_may_be_changed_in_place() -> None:
    config = GRPOConfig(chat_template_kwargs={"a": 1})
    config.chat_template_kwargs["b"] = 2
    config.model_init_kwargs["revision"] = "r"
    assert config.checked().chat_template_kwargs == {"a": 1, "b": 2}
    assert config.checked().model_init_kwargs == {"revision": "r"}


def test_what_was_not_written_reads_as_what_is_used() -> None:
    config = GRPOConfig()
    assert f"{config.learning_rate:.1e}" == "1.0e-06"
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (64, 1)
    assert isinstance(config.settings, Settings)
    assert GRPOConfig(min_p=None).min_p == 0.0


def test_every_attribute_of_the_training_arguments_is_answered_for() -> None:
    public = {name for name in dir(TrainingArguments) if not name.startswith("_")}
    config = GRPOConfig(output_dir="x", warmup_steps=3)
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert public - fields - NAMES <= {"to_dict", "to_json_string", "to_sanitized_dict"}
    assert public <= {*dir(config), *KNOWN_KEYS, *NAMES}
    for name in NAMES - set(REFUSED):
        assert getattr(config, name) is not None, name
    for name, sentence in REFUSED.items():
        with pytest.raises(AttributeError, match=name) as caught:
            getattr(config, name)
        assert sentence in str(caught.value)


def test_the_attributes_have_the_values_of_one_process() -> None:
    config = GRPOConfig(use_cpu=True, log_level="info", warmup_ratio=0.1, per_device_train_batch_size=16)
    assert (str(config.device), config.n_gpu, config.world_size, config.local_rank) == ("cpu", 0, 1, -1)
    assert (config.train_batch_size, config.eval_batch_size, config.ddp_timeout_delta) == (
        16,
        8,
        timedelta(seconds=1800),
    )
    assert (config.get_process_log_level(), config.get_warmup_steps(50)) == (20, 5)
    assert config.get_warmup_steps(4) == 1, "a share is rounded up, as in transformers"
    assert config.parallel_mode.value == "not_parallel"
    with config.main_process_first(local=False, desc="reading"):
        pass


def test_a_misspelt_attribute_is_an_error() -> None:
    with pytest.raises(AttributeError, match="learning_rte"):
        _ = GRPOConfig().learning_rte


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("--num_generations 3", "Set num_generations to 2 or 4 or 8, or the product to 6 or 9."),
        ("--learning_rte 1e-5", 'unknown option --learning_rte. Did you mean "--learning_rate"?'),
        ("--config", "--config needs the name of a YAML file."),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message_and_no_traceback(
    line: str, end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *line.split()])
    with pytest.raises(SystemExit) as caught:
        TrlParser(trl_names.GRPOConfig, prog="train.py").parse_args_and_config()
    message = capsys.readouterr().err
    assert (caught.value.code, message[:17]) == (2, "train.py: error: ")
    assert message.rstrip().endswith(end), message
    with pytest.raises(ConfigError) as raised:
        TrlParser(trl_names.GRPOConfig).parse_args_and_config(line.split())
    assert message == f"train.py: error: {raised.value}\n"
