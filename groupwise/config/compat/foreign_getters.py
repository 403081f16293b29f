"""A configuration read by the ecosystem's names, as callbacks and users' scripts do (`trainer.args.<name>`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from groupwise.config.compat.attributes import accelerator_config
from groupwise.config.compat.loss_aliases import CHOICES, LOSS_TYPES, MISMATCHES
from groupwise.config.compat.translate import FIELDS, FOREIGN
from groupwise.config.normalize import whole
from groupwise.config.objective_keys import AXES
from groupwise.config.settings import Settings

_DERIVED: dict[str, Callable[[Settings], Any]] = {
    "per_device_train_batch_size": lambda config: _completions_per_update(config) // _accumulated(config),
    "gradient_accumulation_steps": lambda config: _accumulated(config),
    "generation_batch_size": lambda config: config.completions_per_step,
    "steps_per_generation": lambda config: config.num_minibatches * _accumulated(config),
    "bf16": lambda config: config.dtype != "float32",
    "torch_dtype": lambda config: config.dtype,
    "evaluation_strategy": lambda config: config.eval_strategy,
    "logging_strategy": lambda config: "steps" if config.logging_steps else "no",
    "do_eval": lambda config: config.eval_strategy != "no",
    "logging_dir": lambda config: config.output_dir,
    "loss_type": lambda config: _loss_type(config),
    "scale_rewards": lambda config: _named(config, "scale_rewards"),
    "importance_sampling_level": lambda config: _named(config, "importance_sampling_level"),
    "multi_objective_aggregation": lambda config: _named(config, "multi_objective_aggregation"),
    "mask_truncated_completions": lambda config: config.objective.mask_truncated,
    "top_entropy_quantile": lambda config: config.objective.top_entropy or 1.0,
    "off_policy_mask_threshold": lambda config: config.objective.off_policy_threshold,
    "use_bias_correction_kl": lambda config: config.objective.kl == "k3_corrected",
    "normalize_advantages": lambda config: config.objective.scale == "batch_std_centred",
    "sapo_temperature_pos": lambda config: config.objective.tau_pos,
    "sapo_temperature_neg": lambda config: config.objective.tau_neg,
    "vespo_k_pos": lambda config: config.objective.gamma_pos[0],
    "vespo_lambda_pos": lambda config: config.objective.gamma_pos[1],
    "vespo_k_neg": lambda config: config.objective.gamma_neg[0],
    "vespo_lambda_neg": lambda config: config.objective.gamma_neg[1],
    "vllm_importance_sampling_correction": lambda config: config.objective.mismatch != "none",
    "vllm_importance_sampling_mode": lambda config: _name_of(config.objective.mismatch, MISMATCHES),
    "vllm_importance_sampling_clip_max": lambda config: config.objective.mismatch_max,
    "vllm_importance_sampling_clip_min": lambda config: config.objective.mismatch_min,
}


def read(config: Settings, name: str) -> Any:
    """A key as it is used: a field, the objective or an axis of it; another library's as it was written, else derived.

    The learning rate that nobody has set is that of full fine-tuning.
    """
    if name == "learning_rate":
        return config.peak_learning_rate()
    if name == "warmup_steps" and config.warmup_ratio and config.as_written.get(name):
        return config.as_written[name]  # a share of the run
    if name in FIELDS or name == "objective":
        return getattr(config, name)
    if name in AXES:
        return getattr(config.objective, name)
    if name == "accelerator_config":
        return accelerator_config()
    if config.as_written.get(name) is not None:
        return config.as_written[name]
    return _DERIVED[name](config) if name in _DERIVED else FOREIGN[name].default


def _loss_type(config: Settings) -> str:
    """TRL's name of the loss (dapo where bnpo is the same one here), or that of the algorithm where TRL has none."""
    objective = config.objective
    fitting = [n for n, axes in LOSS_TYPES.items() if all(getattr(objective, a) == v for a, v in axes.items())]
    return fitting[-1] if fitting else config.preset


def _named(config: Settings, word: str) -> str:
    axis, names = CHOICES[word]
    return _name_of(getattr(config.objective, axis), names)


def _name_of(value: str, names: dict[str, str]) -> str:
    return next((name for name, axis in names.items() if axis == value and name not in {"true", "false"}), value)


def _completions_per_update(config: Settings) -> int:
    return config.completions_per_step // config.num_minibatches


def _accumulated(config: Settings) -> int:
    """`gradient_accumulation_steps` as it was written; 1 where it was not."""
    return int(whole(config.as_written.get("gradient_accumulation_steps") or 1))
