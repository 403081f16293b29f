"""The ecosystem's words for the loss, turned into axes of the objective.

Each function below looks after one topic: it takes all words that were written and the objective that the run starts
from, and returns the axes they set. It raises `ConfigError` for a value it does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from groupwise.algo.objective import Objective
from groupwise.errors import ConfigError, did_you_mean

LOSS_TYPES: dict[str, dict[str, Any]] = {
    "grpo": {"trust_region": "clip", "aggregation": "seq_mean_token_mean"},
    "bnpo": {"trust_region": "clip", "aggregation": "token_mean"},
    "dr_grpo": {"trust_region": "clip", "aggregation": "constant"},
    "dapo": {"trust_region": "clip", "aggregation": "token_mean"},
    "luspo": {"trust_region": "clip", "aggregation": "seq_mean_token_sum"},
    "cispo": {"trust_region": "weight_clip", "aggregation": "token_mean"},
    "sapo": {"trust_region": "sapo", "aggregation": "seq_mean_token_mean"},
    "vespo": {"trust_region": "gamma", "level": "seq_prod", "aggregation": "token_mean"},
}
CHOICES: dict[str, tuple[str, dict[str, str]]] = {
    "scale_rewards": (
        "scale",
        {"true": "group_std", "group": "group_std", "batch": "batch_std", "false": "none", "none": "none"},
    ),
    "importance_sampling_level": (
        "level",
        {"token": "token", "sequence": "seq_geo", "sequence_token": "seq_geo_token"},
    ),
    "multi_objective_aggregation": (
        "combine",
        {"sum_then_normalize": "weighted_sum", "normalize_then_sum": "normalise_each"},
    ),
}
MISMATCHES = {
    "token_truncate": "token_truncate",
    "token_mask": "token_mask",
    "sequence_truncate": "seq_truncate",
    "sequence_mask": "seq_mask",
}
_MISMATCH_WORDS = {"vllm_importance_sampling_correction", "vllm_importance_sampling_mode"}
_GAMMAS = {
    "gamma_pos": ("vespo_k_pos", "vespo_lambda_pos"),
    "gamma_neg": ("vespo_k_neg", "vespo_lambda_neg"),
}

WORDS: dict[str, tuple[str, ...]] = {
    "loss_type": ("trust_region", "aggregation"),
    "epsilon": ("epsilon_low", "epsilon_high"),
    "scale_rewards": ("scale",),
    "importance_sampling_level": ("level",),
    "multi_objective_aggregation": ("combine",),
    "mask_truncated_completions": ("mask_truncated",),
    "top_entropy_quantile": ("top_entropy",),
    "off_policy_mask_threshold": ("off_policy_threshold",),
    "use_bias_correction_kl": ("kl",),
    "sapo_temperature_pos": ("tau_pos",),
    "sapo_temperature_neg": ("tau_neg",),
    "vespo_k_pos": ("gamma_pos",),
    "vespo_lambda_pos": ("gamma_pos",),
    "vespo_k_neg": ("gamma_neg",),
    "vespo_lambda_neg": ("gamma_neg",),
    "normalize_advantages": ("scale",),
    "vllm_importance_sampling_correction": ("mismatch",),
    "vllm_importance_sampling_mode": ("mismatch",),
    "vllm_importance_sampling_clip_max": ("mismatch_max",),
    "vllm_importance_sampling_cap": ("mismatch_max",),
    "vllm_importance_sampling_clip_min": ("mismatch_min",),
}
"""Word -> the axes it sets."""


def choose(word: str, value: Any, choices: Mapping[str, Any]) -> Any:
    """The entry of `choices` for a value in any case; an unknown one is an error that names the nearest."""
    key = str(value).lower()
    if key not in choices:
        expected = ", ".join(f'"{choice}"' for choice in choices)
        raise ConfigError(f"{word} is {value!r}; expected one of {expected}.{did_you_mean(key, choices)}")
    return choices[key]


def _number(words: Mapping[str, Any], word: str, default: float) -> float:
    try:
        return float(words.get(word, default))
    except (TypeError, ValueError):
        raise ConfigError(f"{word} is {words[word]!r}; expected a number.") from None


def _loss_type(words: Mapping[str, Any], base: Objective) -> dict[str, Any]:
    if "loss_type" not in words:
        return {}
    axes = dict(choose("loss_type", words["loss_type"], LOSS_TYPES))
    if axes.get("level") == "seq_prod" and base.mismatch in {"seq_truncate", "seq_mask"}:
        axes |= {} if _MISMATCH_WORDS & words.keys() else {"mismatch": "none"}  # TRL's default, which only vLLM meets
    return axes


def _choices(words: Mapping[str, Any], base: Objective) -> dict[str, Any]:
    axes = {axis: choose(word, words[word], named) for word, (axis, named) in CHOICES.items() if word in words}
    if str(words.get("loss_type")).lower() == "vespo":
        axes.pop("level", None)  # it weighs whole sequences, whatever the level is
    return axes


def _epsilon(words: Mapping[str, Any], base: Objective) -> dict[str, Any]:
    """Both sides where the objective is symmetric; only the lower one where it has an upper one of its own."""
    if "epsilon" not in words:
        return {}
    epsilon = _number(words, "epsilon", base.epsilon_low)
    return {"epsilon_low": epsilon} | ({"epsilon_high": epsilon} if base.epsilon_low == base.epsilon_high else {})


def _masks(words: Mapping[str, Any], base: Objective) -> dict[str, Any]:
    axes: dict[str, Any] = {}
    if "mask_truncated_completions" in words:
        axes["mask_truncated"] = bool(words["mask_truncated_completions"])
    if "top_entropy_quantile" in words:
        share = _number(words, "top_entropy_quantile", 1.0)
        axes["top_entropy"] = None if share == 1 else share
    if "off_policy_mask_threshold" in words:
        axes["off_policy_threshold"] = words["off_policy_mask_threshold"]
    return axes


def _kl(words: Mapping[str, Any], base: Objective) -> dict[str, Any]:
    if "use_bias_correction_kl" not in words:
        return {}
    return {"kl": "k3_corrected" if words["use_bias_correction_kl"] else "k3"}


def _sapo(words: Mapping[str, Any], base: Objective) -> dict[str, Any]:
    named = {"tau_pos": "sapo_temperature_pos", "tau_neg": "sapo_temperature_neg"}
    return {axis: _number(words, word, 1.0) for axis, word in named.items() if word in words}


def _vespo(words: Mapping[str, Any], base: Objective) -> dict[str, Any]:
    axes: dict[str, Any] = {}
    for axis, pair in _GAMMAS.items():
        if any(word in words for word in pair):
            start = getattr(base, axis)
            axes[axis] = tuple(_number(words, word, start[place]) for place, word in enumerate(pair))
    return axes


def _rloo(words: Mapping[str, Any], base: Objective) -> dict[str, Any]:
    return {"scale": "batch_std_centred"} if words.get("normalize_advantages") else {}


def _mismatch(words: Mapping[str, Any], base: Objective) -> dict[str, Any]:
    """TRL corrects for the sampler unless it is switched off, by default with a sequence mask at 3."""
    names = {name: f"vllm_importance_sampling_{name}" for name in ("correction", "mode", "clip_max", "cap", "clip_min")}
    found = {name: words[word] for name, word in names.items() if word in words}
    if not found:
        return {}
    if not found.get("correction", True):
        return {"mismatch": "none"}
    return {
        "mismatch": choose(names["mode"], found.get("mode", "sequence_mask"), MISMATCHES),
        "mismatch_max": found.get("clip_max", found.get("cap", 3.0)),
        "mismatch_min": found.get("clip_min"),
    }


TOPICS: tuple[Callable[[Mapping[str, Any], Objective], dict[str, Any]], ...] = (
    _loss_type,
    _choices,
    _epsilon,
    _masks,
    _kl,
    _sapo,
    _vespo,
    _rloo,
    _mismatch,
)
