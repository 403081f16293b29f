"""Every field of TRL's GRPOConfig and of TrainingArguments is answered for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from groupwise.config import GRPOConfig
from groupwise.config.compat.foreign import Foreign
from groupwise.config.compat.transformers_names import TRANSFORMERS_FIELDS
from groupwise.config.compat.translate import FIELDS, FOREIGN, KNOWN_KEYS
from groupwise.config.compat.trl_names import TRL_FIELDS
from groupwise.config.objective_keys import KEYS
from groupwise.errors import ConfigError

TRL_1_16_NAMES = """
learning_rate model_init_kwargs trust_remote_code router_aux_loss_coef disable_dropout cast_lm_head_to_fp32
remove_unused_columns num_generations num_generations_eval max_completion_length ds3_gather_for_generation
shuffle_dataset pad_to_multiple_of generation_batch_size steps_per_generation temperature top_p top_k min_p
generation_kwargs chat_template_kwargs repetition_penalty cache_implementation use_vllm vllm_mode vllm_model_impl
vllm_enable_sleep_mode vllm_structured_outputs_regex vllm_server_base_url vllm_server_host vllm_server_port
vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization vllm_max_model_length vllm_tensor_parallel_size beta
num_iterations epsilon delta epsilon_high sapo_temperature_neg sapo_temperature_pos vespo_k_pos vespo_lambda_pos
vespo_k_neg vespo_lambda_neg importance_sampling_level reward_weights multi_objective_aggregation scale_rewards
loss_type mask_truncated_completions sync_ref_model ref_model_mixup_alpha ref_model_sync_steps top_entropy_quantile
entropy_coef use_adaptive_entropy entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target
max_tool_calling_iterations vllm_importance_sampling_correction vllm_importance_sampling_mode
vllm_importance_sampling_clip_max
vllm_importance_sampling_clip_min off_policy_mask_threshold use_bias_correction_kl log_completions log_multimodal
num_completions_to_print log_unique_prompts log_completions_hub_repo use_transformers_continuous_batching
transformers_continuous_batching_config use_transformers_paged vllm_importance_sampling_cap
"""
TRL_1_16 = TRL_1_16_NAMES.split()


def training_arguments() -> dict[str, Any]:
    """Field -> default, from the installed transformers."""
    from transformers import TrainingArguments

    missing = dataclasses.MISSING
    return {
        field.name: field.default if field.default_factory is missing else field.default_factory()
        for field in dataclasses.fields(TrainingArguments)
    }


def test_every_field_stands_in_exactly_one_table() -> None:
    assert [entry.name for entry in TRL_FIELDS] == TRL_1_16
    theirs = set(training_arguments())
    tabled = [entry.name for entry in TRANSFORMERS_FIELDS]
    assert len(tabled) == len(set(tabled))
    assert not set(tabled) & set(TRL_1_16)
    assert theirs <= set(tabled) | set(TRL_1_16)


@pytest.mark.parametrize("entry", FOREIGN.values(), ids=lambda entry: entry.name)
def test_the_kind_of_an_entry_is_true(entry: Foreign) -> None:
    is_own = entry.name in FIELDS or (entry.name in KEYS and entry.kind == "same")
    assert is_own == (entry.kind == "same")
    assert entry.sentence or entry.kind == "same", "everything but the same is explained"
    assert not entry.sentence.endswith(".")


def test_the_defaults_of_transformers_are_accepted_in_silence() -> None:
    """A script that writes every default out asks for nothing that groupwise does not do."""
    defaults = training_arguments()
    for name, default in defaults.items():
        notes = GRPOConfig(**{name: default}).notes
        assert notes == () or name == "remove_unused_columns", f"{name}={default!r}: {notes}"


@pytest.mark.parametrize("entry", [e for e in FOREIGN.values() if e.kind == "refused"], ids=lambda entry: entry.name)
def test_a_refused_field_says_what_to_use(entry: Foreign) -> None:
    assert GRPOConfig(**{entry.name: entry.default}) == GRPOConfig()
    with pytest.raises(ConfigError) as caught:
        GRPOConfig(**{entry.name: "something"})
    assert f"{entry.name} is not supported: {entry.sentence}." in str(caught.value)


@pytest.mark.parametrize("entry", [e for e in FOREIGN.values() if e.kind == "ignored"], ids=lambda entry: entry.name)
def test_an_ignored_field_changes_nothing_and_is_noted(entry: Foreign) -> None:
    config = GRPOConfig(**{entry.name: "something"})
    assert config == GRPOConfig()
    assert config.notes == (() if entry.is_for_program else (f"{entry.name} is ignored: {entry.sentence}.",))


def test_a_value_that_asks_for_what_happens_anyway_is_no_news() -> None:
    met = {entry.name: value for entry in FOREIGN.values() for value in entry.met}
    assert met["gradient_checkpointing_kwargs"] == {"use_reentrant": False}
    assert met.keys() >= {"disable_dropout", "cast_lm_head_to_fp32", "accelerator_config"}
    assert GRPOConfig(**met) == GRPOConfig()
    assert GRPOConfig(**met).notes == ()


def test_another_kernel_is_noted() -> None:
    (note,) = GRPOConfig(use_liger_kernel=True).notes
    assert note.startswith("use_liger_kernel is ignored: groupwise's own head is used")


def test_scripts_read_that_batches_are_dispatched_to_nobody() -> None:
    for written in ({}, {"accelerator_config": {"dispatch_batches": False}}):
        config = GRPOConfig(**written)
        assert config.accelerator_config.dispatch_batches is False
        assert dataclasses.replace(config, seed=3).accelerator_config.dispatch_batches is False
    with pytest.raises(ConfigError, match="accelerator_config is not supported"):
        GRPOConfig(accelerator_config={"dispatch_batches": True})


def test_vllm_is_one_note_and_changes_nothing() -> None:
    config = GRPOConfig(use_vllm=True, vllm_mode="server", vllm_gpu_memory_utilization=0.9)
    assert config == GRPOConfig()
    assert config.notes == (
        "use_vllm, vllm_mode and vllm_gpu_memory_utilization are ignored: groupwise's own engine samples until servers "
        "are given.",
    )
    with pytest.raises(ConfigError, match="vllm_structured_outputs_regex is not supported"):
        GRPOConfig(use_vllm=True, vllm_structured_outputs_regex="a+")


def test_every_known_name_can_be_read() -> None:
    config = GRPOConfig()
    assert all(hasattr(config, name) for name in KNOWN_KEYS)


def test_an_unknown_name_cannot_be_read() -> None:
    with pytest.raises(AttributeError):
        GRPOConfig().learning_rte  # noqa: B018


@pytest.mark.parametrize(
    ("written", "same_as"),
    [
        ({"evaluation_strategy": "steps", "eval_steps": 5}, {"eval_strategy": "steps", "eval_steps": 5}),
        ({"eval_steps": 5}, {"eval_strategy": "steps", "eval_steps": 5}),
        ({"eval_strategy": "steps", "logging_steps": 7}, {"eval_steps": 7, "logging_steps": 7}),
        ({"torch_dtype": "torch.bfloat16"}, {"dtype": "bfloat16"}),
        ({"bf16": True}, {"dtype": "auto"}),
        ({"bf16": True, "dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        ({"bf16": False}, {"dtype": "float32"}),
        ({"bf16": False, "dtype": "auto"}, {"dtype": "auto"}),
        ({"no_cuda": True}, {"use_cpu": True}),
        ({"warmup_steps": 0.1}, {"warmup_ratio": 0.1}),
        ({"logging_strategy": "no"}, {"logging_steps": 0}),
        ({"save_strategy": False}, {"save_strategy": "no"}),
        ({"activation_checkpointing": True}, {"gradient_checkpointing": True}),
        ({"dataloader_drop_last": True}, {"drop_incomplete_step": True}),
        ({"dataloader_drop_last": False}, {}),
        ({"chat_template_kwargs": '{"a": 1}'}, {"chat_template_kwargs": {"a": 1}}),
        ({"objective": '{"preset": "dapo", "delta": 3}'}, {"objective": {"preset": "dapo", "delta": 3}}),
        ({"model_init_kwargs": {"dtype": "float32"}, "bf16": True}, {"dtype": "auto"}),
        ({"model_init_kwargs": {"dtype": "float32"}}, {"dtype": "float32"}),
        ({"train_sampling_strategy": "sequential"}, {"shuffle_dataset": False}),
        ({"per_gpu_train_batch_size": 16}, {"prompts_per_step": 2}),
        ({"push_to_hub_model_id": "me/it"}, {"hub_model_id": "me/it"}),
        ({"report_to": "none"}, {"report_to": []}),
        ({"report_to": "wandb"}, {"report_to": ["wandb"]}),
        ({"top_k": -1, "stop": "END"}, {"top_k": 0, "stop": ["END"]}),
        ({"output_dir": Path("a/b")}, {"output_dir": "a/b"}),
        ({"output_dir": "~/runs/a"}, {"output_dir": str(Path.home() / "runs/a")}),
        ({"output_dir": Path("~/runs/a")}, {"output_dir": str(Path.home() / "runs/a")}),
        ({"output_dir": "runs/~b"}, {"output_dir": "runs/~b"}),
        (
            {"generation_kwargs": {"max_new_tokens": 9, "stop_strings": ["x"], "do_sample": True, "min_p": 0.1}},
            {"max_completion_length": 9, "stop": ["x"], "min_p": 0.1},
        ),
        (
            {"model_init_kwargs": {"torch_dtype": "auto", "attn_implementation": "eager", "revision": "x"}},
            {"dtype": "auto", "attn_implementation": "eager", "model_init_kwargs": {"revision": "x"}},
        ),
    ],
)
def test_a_translated_field(written: dict[str, Any], same_as: dict[str, Any]) -> None:
    assert GRPOConfig(**written) == GRPOConfig(**same_as)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("adamW_8bit", "adamw_8bit"),
        ("paged_adamw_8bit", "adamw_8bit"),
        ("adamw-bnb-8bit", "adamw_8bit"),
        ("AdamW", "adamw"),
        ("adamw_torch", "adamw"),
        ("adamw_torch_fused", "adamw_fused"),
        ("SGD", "sgd"),
        ("adafactor", "adafactor"),
    ],
)
def test_spellings_of_an_optimizer(spelling: str, name: str) -> None:
    assert GRPOConfig(optim=spelling).optim == name


def test_the_ecosystems_constants_are_understood() -> None:
    from transformers import SchedulerType
    from transformers.trainer_utils import IntervalStrategy
    from transformers.training_args import OptimizerNames

    config = GRPOConfig(
        optim=OptimizerNames.ADAMW_TORCH_FUSED,
        lr_scheduler_type=SchedulerType.COSINE,
        eval_strategy=IntervalStrategy.EPOCH,
    )
    assert (config.optim, config.lr_scheduler_type, config.eval_strategy) == ("adamw_fused", "cosine", "epoch")


def test_schedules_are_those_of_transformers() -> None:
    from transformers import SchedulerType

    from groupwise.config.names import SCHEDULERS

    follow_a_metric = {"reduce_lr_on_plateau", "greedy"}
    assert set(SCHEDULERS) == {kind.value for kind in SchedulerType} - follow_a_metric


def test_no_bound_for_the_gradient_is_written_as_zero() -> None:
    """Where others read None as no clipping, null is the default here, which clips."""
    config = GRPOConfig(max_grad_norm=None)
    assert config == GRPOConfig()
    assert config.notes == ("max_grad_norm null is the default, 1: write 0 to leave gradients as they are.",)
    assert GRPOConfig(max_grad_norm=0).notes == GRPOConfig().notes == ()
