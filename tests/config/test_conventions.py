"""A script that is silent gets TRL's defaults from `groupwise.trl`, and is shown what differs without it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers.trainer_pt_utils import AcceleratorConfig

import groupwise
import groupwise.trl as trl_names
from groupwise.algo.objective import Objective
from groupwise.config import GRPOConfig, Recipe
from groupwise.config.compat.beside_trl import _DEFAULTS as SHOWN
from groupwise.config.normalize import tidy
from groupwise.errors import ConfigError

TRL: dict[str, Any] = json.loads(Path(__file__).with_name("trl_defaults.json").read_text(encoding="utf-8"))

DERIVED = {
    "output_dir": "trainer_output",
    "bf16": True,
    "generation_batch_size": 8,
    "steps_per_generation": 1,
    "epsilon_high": 0.2,
    "min_p": 0.0,
    "accelerator_config": AcceleratorConfig(dispatch_batches=False),
    **{name: {} for name in ("lr_scheduler_kwargs", "model_init_kwargs", "chat_template_kwargs")},
}
"""What TRL makes of its None, or does where it is None."""


@pytest.mark.parametrize("kind", ["GRPOConfig", "RLOOConfig"])
def test_every_default_is_trls(kind: str) -> None:
    config = getattr(trl_names, kind)()
    for name, default in TRL[kind].items():
        expected = DERIVED.get(name) if default is None else tidy(name, default)
        assert getattr(config, name) == expected, name


@pytest.mark.parametrize("kind", ["ModelConfig", "ScriptArguments"])
def test_the_arguments_of_scripts_are_trls(kind: str) -> None:
    ours = {field.name: field.default for field in dataclasses.fields(getattr(trl_names, kind))}
    assert ours == TRL[kind]


def test_silence_is_trls_algorithm_at_trls_size() -> None:
    settings = trl_names.GRPOConfig().settings
    assert settings.objective == Objective.preset("trl_default")
    assert settings.describe()[0] == "1 prompt x 8 completions = 8 completions a step, 1 update"
    assert (settings.conventions, settings.learning_rate, settings.num_train_epochs) == ("trl", 1e-6, 3.0)
    assert (settings.objective.mismatch, settings.objective.mismatch_max) == ("seq_mask", 3.0)
    rloo = trl_names.RLOOConfig().settings
    assert rloo.objective == Objective.preset("rloo_trl")
    assert rloo.describe()[0] == "4 prompts x 2 completions = 8 completions a step, 1 update"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"prompts_per_step": 4}, {"prompts_per_step": 4}),
        ({"gradient_accumulation_steps": 2}, {"prompts_per_step": 2}),
        ({"num_generations": 4}, {"prompts_per_step": 2}),
        ({"loss_type": "grpo"}, {"preset": "trl_default", "beta": 0.0, "aggregation": "seq_mean_token_mean"}),
        ({"objective": "grpo"}, {"preset": "grpo", "beta": 0.04}),
        ({"beta": 0.1}, {"kl": "k3_corrected"}),
        ({"learning_rate": None}, {"learning_rate": 1e-6}),
        ({"eval_strategy": "steps"}, {"eval_steps": 10}),
        ({"logging_strategy": "no"}, {"logging_steps": 0}),
        ({"activation_checkpointing": False}, {"gradient_checkpointing": False}),
        ({"model_init_kwargs": {"dtype": "float32"}}, {"dtype": "auto"}),
        ({"model_init_kwargs": {"dtype": "float32"}, "bf16": False}, {"dtype": "float32"}),
        ({"model_init_kwargs": {"dtype": "bfloat16"}}, {"dtype": "bfloat16"}),
    ],
)
def test_what_is_written_goes_before(written: dict[str, Any], read: dict[str, Any]) -> None:
    config = trl_names.GRPOConfig(**written)
    assert {name: getattr(config, name) for name in read} == read


def test_normalized_advantages_of_rloo() -> None:
    assert trl_names.RLOOConfig(normalize_advantages=True).objective.scale == "batch_std_centred"
    assert trl_names.RLOOConfig(normalize_advantages=False).objective.scale == "none"
    with pytest.raises(ConfigError, match="reward_clip_range is not supported: let the reward functions return"):
        trl_names.RLOOConfig(reward_clip_range=(0, 1))


def test_the_conventions_survive_the_record() -> None:
    for config in (trl_names.GRPOConfig(seed=3), trl_names.RLOOConfig()):
        again = Recipe(**config.settings.resolved()).config
        assert again == config.settings
        assert again.conventions == "trl"
    assert Recipe(conventions="trl").config == trl_names.GRPOConfig(output_dir="trainer_output").settings
    with pytest.raises(ConfigError, match=r'conventions is .TRL.; expected one of "groupwise" or "trl"'):
        GRPOConfig(conventions="TRL")


@pytest.fixture
def without_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "trl", raising=False)


@pytest.mark.usefixtures("without_trl")
def test_a_script_in_trls_words_is_shown_once_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GRPOConfig(per_device_train_batch_size=8)
    head, *lines, end = config.describe()[-1].split("\n")
    assert head == "Not set here, and TRL's default is another:"
    assert "  beta 0.04 (TRL: 0)" in lines
    assert "  num_train_epochs 1 (TRL: 3)" in lines
    assert "learning_rate" not in config.describe()[-1]
    assert "\n  learning_rate 1e-5 with an adapter (TRL: 1e-6)\n" in config.describe(has_adapter=True)[-1]
    assert not any(line.startswith("  per_device_train_batch_size") for line in lines)
    assert end == "from groupwise.trl import GRPOConfig, GRPOTrainer takes TRL's."
    for quiet in (GRPOConfig(prompts_per_step=2), trl_names.GRPOConfig(per_device_train_batch_size=8)):
        assert quiet.describe() == quiet.settings.describe()
    assert GRPOConfig.of(Recipe(num_train_epochs=2).config).describe()[1:] == ["objective grpo"]
    everything = {"learning_rate": 1e-6, "max_steps": 3, "gradient_checkpointing": True, "logging_steps": 10}
    assert len(GRPOConfig(objective="trl_default", per_device_train_batch_size=8, **everything).describe()) == 2
    monkeypatch.setitem(sys.modules, "trl", sys)
    assert "per_device_train_batch_size 64 completions (TRL: 8)" in GRPOConfig().describe()[-1]


def test_what_is_shown_as_trls_default_is_that_of_groupwise_trl() -> None:
    config = trl_names.GRPOConfig()
    assert {name: getattr(config, name) for name, *_ in SHOWN} == {name: default for name, _, default, _ in SHOWN}


@pytest.mark.usefixtures("without_trl")
def test_the_other_names_come_from_trl_or_a_sentence_answers() -> None:
    assert groupwise.ModelConfig is trl_names.ModelConfig
    for name in trl_names.__all__:
        assert getattr(trl_names, name) is not None
    with pytest.raises(AttributeError, match="RLOOTrainr"):
        _ = groupwise.RLOOTrainr
    program = (
        "import sys; sys.modules['trl'] = None\n"
        "for line in ('from groupwise.trl import SFTTrainer', 'from groupwise import SFTTrainer',\n"
        "             'from groupwise.trl.rewards import accuracy_reward',\n"
        "             'from groupwise.rewards import accuracy_reward'):\n"
        "    try:\n        exec(line)\n    except ImportError as error:\n        print(error)\n"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second, third, fourth, heavy = done.stdout.splitlines()
    assert first == second
    assert "SFTTrainer is TRL's own, and trl is not installed" in first
    assert (
        third
        == 'accuracy_reward is TRL\'s own, and trl is not installed: pip install trl, or use reward_funcs=["math"].'
    )
    assert fourth.startswith("accuracy_reward is TRL's: from groupwise.trl.rewards import accuracy_reward, or use")
    assert heavy == "set()"


def test_adapter_and_quantization_of_a_command_line() -> None:
    get = trl_names.get_peft_config
    assert get(trl_names.ModelConfig()) is None
    adapter = get(trl_names.ModelConfig(use_peft=True, lora_r=4, lora_target_modules=["all-linear"], use_dora=True))
    assert (adapter.r, adapter.lora_alpha, adapter.target_modules, adapter.use_dora) == (4, 32, "all-linear", True)
    assert trl_names.get_quantization_config(trl_names.ModelConfig()) is None
    with pytest.raises(ConfigError, match="Keep one of them"):
        trl_names.ModelConfig(load_in_4bit=True, load_in_8bit=True)
