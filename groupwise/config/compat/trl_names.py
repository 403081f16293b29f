"""Every field that TRL 1.16's GRPOConfig adds to or changes in TrainingArguments, in TRL's order, and older ones."""

from __future__ import annotations

from groupwise.config.compat.foreign import Foreign, all_ignored, ignored, refused, same, translated

NO_SERVERS = "groupwise's own engine samples until servers are given"
_VLLM = NO_SERVERS
_BATCHES = "groupwise's own engine always batches continuously"

TRL_FIELDS: tuple[Foreign, ...] = (
    same("learning_rate", "unset: 1e-6 for full fine-tuning, 1e-5 for LoRA; with `groupwise.trl` 1e-6 for both"),
    same(
        "model_init_kwargs",
        "dtype, attn_implementation and trust_remote_code in it become the fields of that name; beside bf16=True a "
        "dtype of float32 is that of the weights, which are float32 always",
    ),
    same("trust_remote_code"),
    refused(
        "router_aux_loss_coef",
        None,
        "no auxiliary loss is added for mixture-of-experts models; leave it out, or train with the router frozen",
    ),
    ignored("disable_dropout", False, "dropout is 0 in every pass already", met=(True,)),
    ignored("cast_lm_head_to_fp32", False, "the logits are kept in float32 already", met=(True,)),
    ignored("remove_unused_columns", False, "the reward functions always get every column"),
    same("num_generations"),
    same("num_generations_eval"),
    same("max_completion_length"),
    ignored("ds3_gather_for_generation", True, "there is no DeepSpeed here"),
    same("shuffle_dataset"),
    ignored("pad_to_multiple_of", "auto", "completions are packed, not padded"),
    translated("generation_batch_size", None, "`prompts_per_step` = it / `num_generations`"),
    translated("steps_per_generation", None, "`num_minibatches` = it / gradient_accumulation_steps"),
    same("temperature"),
    same("top_p"),
    same("top_k"),
    same("min_p"),
    translated("generation_kwargs", None, "its keys become the sampling fields; one that has no field is refused"),
    same("chat_template_kwargs"),
    same("repetition_penalty"),
    ignored("cache_implementation", None, "the engine has its own cache"),
    translated("use_vllm", False, "`servers`, beside an address; without one groupwise's own engine samples"),
    translated("vllm_mode", "colocate", "`servers`, beside an address"),
    *all_ignored(_VLLM, vllm_model_impl="vllm", vllm_enable_sleep_mode=False),
    refused("vllm_structured_outputs_regex", None, "completions cannot be constrained; reward the format instead"),
    translated("vllm_server_base_url", None, "`servers`"),
    translated("vllm_server_host", "0.0.0.0", "`servers`"),
    translated("vllm_server_port", 8000, "`servers`"),
    translated("vllm_server_timeout", 240.0, "`server_timeout`"),
    *all_ignored(_VLLM, vllm_group_port=51216, vllm_gpu_memory_utilization=0.3),
    *all_ignored(_VLLM, vllm_max_model_length=None, vllm_tensor_parallel_size=1),
    same("beta"),
    same("num_iterations"),
    translated("epsilon", 0.2, "`epsilon_low`, and `epsilon_high` where the objective is symmetric"),
    same("delta"),
    same("epsilon_high", "with `loss_type: cispo` it is the cap of the weight itself, `weight_max`, and at least 1"),
    translated("sapo_temperature_neg", 1.05, "`tau_neg`"),
    translated("sapo_temperature_pos", 1.0, "`tau_pos`"),
    translated("vespo_k_pos", 2.0, "first number of `gamma_pos`"),
    translated("vespo_lambda_pos", 3.0, "second number of `gamma_pos`"),
    translated("vespo_k_neg", 3.0, "first number of `gamma_neg`"),
    translated("vespo_lambda_neg", 2.0, "second number of `gamma_neg`"),
    translated("importance_sampling_level", "token", "`level`: token, or seq_geo for sequence"),
    same("reward_weights"),
    translated(
        "multi_objective_aggregation",
        "sum_then_normalize",
        "`combine`: weighted_sum, or normalise_each for normalize_then_sum",
    ),
    translated("scale_rewards", "group", "`scale`: group_std (True), batch_std, none (False)"),
    translated("loss_type", "grpo", "`trust_region` and `aggregation` (table below)"),
    translated("mask_truncated_completions", False, "`mask_truncated`"),
    same("sync_ref_model", "works with LoRA too"),
    same("ref_model_mixup_alpha"),
    same("ref_model_sync_steps", "counts rollouts"),
    translated("top_entropy_quantile", 1.0, "`top_entropy`; 1 is off"),
    same("entropy_coef"),
    same("use_adaptive_entropy", "its state is part of the checkpoints"),
    same("entropy_coef_min"),
    same("entropy_coef_max"),
    same("entropy_coef_delta"),
    same("entropy_target"),
    translated("max_tool_calling_iterations", None, "`max_turns` = it + 1"),
    translated("vllm_importance_sampling_correction", False, "`mismatch`, for groupwise's own engine"),
    translated("vllm_importance_sampling_mode", "sequence_mask", "`mismatch`"),
    translated("vllm_importance_sampling_clip_max", 3.0, "`mismatch_max`"),
    translated("vllm_importance_sampling_clip_min", None, "`mismatch_min`"),
    translated("off_policy_mask_threshold", None, "`off_policy_threshold`"),
    translated("use_bias_correction_kl", False, "`kl`: k3_corrected, or k3 when false"),
    same("log_completions"),
    ignored("log_multimodal", True, "completions are text"),
    same("num_completions_to_print"),
    same("log_unique_prompts"),
    refused("log_completions_hub_repo", None, "completions stay in the run folder; upload its `completions` folder"),
    ignored("use_transformers_continuous_batching", False, _BATCHES, met=(True,)),
    ignored("transformers_continuous_batching_config", None, _BATCHES),
    ignored("use_transformers_paged", False, _BATCHES, met=(True,)),
    translated("vllm_importance_sampling_cap", None, "`mismatch_max`"),
)

RLOO_FIELDS: tuple[Foreign, ...] = (
    translated("normalize_advantages", False, "`scale`: batch_std_centred"),
    refused("reward_clip_range", None, "let the reward functions return values within it"),
)
"""What RLOOConfig has and GRPOConfig does not."""

TRL_LEGACY_FIELDS: tuple[Foreign, ...] = (
    same("max_prompt_length", "TRL removed it; here it still cuts or drops (`overlong_prompts`)"),
    ignored("use_liger_loss", False, "groupwise's own loss is used, which never holds the full logits either"),
    ignored("wandb_log_unique_prompts", False, "its name is `log_unique_prompts` now"),
    *all_ignored(_VLLM, vllm_device="auto", vllm_dtype="auto", vllm_max_model_len=None),
    *all_ignored(_VLLM, vllm_enable_prefix_caching=True),
    refused("vllm_sampling_params", None, "set `temperature`, `top_p`, `top_k`, `min_p` and `stop` themselves"),
    refused("vllm_guided_decoding_regex", None, "completions cannot be constrained; reward the format instead"),
)
