"""Nothing set is the published algorithm."""

import copy
import json
import pickle
from dataclasses import replace

import pytest

from groupwise.algo.objective import Objective
from groupwise.config import GRPOConfig


def test_nothing_set_is_deepseekmath() -> None:
    config = GRPOConfig()
    objective = config.objective
    assert objective == Objective.preset("grpo")
    assert (objective.baseline, objective.scale, objective.ddof, objective.eps) == ("group_mean", "group_std", 1, 1e-4)
    assert (objective.trust_region, objective.epsilon_low, objective.epsilon_high) == ("clip", 0.2, 0.2)
    assert (objective.kl, objective.beta, objective.kl_in_reward) == ("k3", 0.04, "none")
    assert (objective.level, objective.aggregation) == ("token", "seq_mean_token_mean")
    assert (config.num_iterations, config.num_minibatches, config.updates_per_step) == (1, 1, 1)
    assert (config.sync_ref_model, config.ref_model_mixup_alpha, config.ref_model_sync_steps) == (False, 0.6, 512)
    assert config.ref_model_reset_steps is None
    assert config.settings.learning_rate is None, (
        "1e-6 for full fine-tuning and 1e-5 for LoRA, decided when that is known"
    )
    assert config.learning_rate == 1e-6, "read as without an adapter"
    assert (config.lr_scheduler_type, config.max_grad_norm) == ("linear", 1.0)
    assert (config.num_generations, config.max_completion_length, config.temperature) == (8, 512, 1.0)
    assert (config.top_p, config.top_k, config.min_p, config.repetition_penalty) == (1.0, 0, 0.0, 1.0)
    assert (config.reward_weights, config.dynamic_sampling) == (None, False)


def test_the_case_study() -> None:
    config = GRPOConfig(
        output_dir="GRPO",
        run_name="experiment",
        learning_rate=2e-5,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_prompt_length=512,
        max_completion_length=96,
        num_generations=4,
        optim="adamW_8bit",
        num_train_epochs=1,
        bf16=True,
        report_to=["wandb"],
        remove_unused_columns=False,
        logging_steps=1,
    )
    assert config.settings.describe() == [
        "2 prompts x 4 completions = 8 completions a step, 1 update",
        "objective grpo",
    ]
    assert (config.optim, config.dtype, config.report_to) == ("adamw_8bit", "auto", ["wandb"])
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == (4, 2)
    assert config.as_written["optim"] == "adamW_8bit"


def test_the_output_folder_may_come_first() -> None:
    assert GRPOConfig("here", seed=1) == GRPOConfig(output_dir="here", seed=1)


def test_null_is_the_default() -> None:
    assert GRPOConfig(min_p=None, report_to=None, lr_scheduler_kwargs=None, optim=None, beta=None) == GRPOConfig()


@pytest.mark.parametrize("preset", Objective.preset_names())
def test_every_algorithm_survives_its_record(preset: str) -> None:
    config = GRPOConfig(objective=preset)
    again = GRPOConfig(**config.resolved())
    assert again == config
    length = config.max_completion_length if config.objective.aggregation == "constant" else None
    assert config.objective == replace(Objective.preset(preset), max_length=length)


def test_a_record_keeps_what_the_user_switched_off() -> None:
    config = GRPOConfig(objective="r1_zero", ref_model_reset_steps=None, num_minibatches=1)
    assert GRPOConfig(objective="r1_zero").ref_model_reset_steps == 400
    assert config.ref_model_reset_steps is None
    assert GRPOConfig(**config.resolved()) == config


def test_replace_writes_some_keys_differently() -> None:
    config = GRPOConfig(per_device_train_batch_size=8, num_generations=4)
    changed = config.replace(num_generations=8, beta=0.1)
    assert (config.prompts_per_step, changed.prompts_per_step) == (2, 1)
    assert (config.beta, changed.beta) == (0.04, 0.1)


def test_a_copy_is_equal() -> None:
    config = GRPOConfig(objective="dapo", per_device_train_batch_size=8, optim="AdamW_8bit")
    for twin in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), config.replace()):
        assert twin == config
        assert twin.as_written == config.as_written


def test_the_description_counts_and_says_what_costs_extra() -> None:
    config = GRPOConfig(prompts_per_step=1, num_generations=2, num_iterations=2, objective="entropy_8020")
    assert config.describe()[:3] == [
        "1 prompt x 2 completions = 2 completions a step, 2 updates",
        "objective entropy_8020",
        "The objective's masks read the current policy: one more forward pass for each update.",
    ]


def test_callbacks_can_ask_for_the_arguments() -> None:
    config = GRPOConfig(optim="adamw", stop=["x"])
    assert json.loads(config.to_json_string()) == config.to_dict() == config.resolved()
    assert all(isinstance(value, bool | int | float | str) for value in config.to_sanitized_dict().values())
    assert (config.process_index, config.world_size, config.should_save) == (0, 1, True)
