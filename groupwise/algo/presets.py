"""Every named algorithm as one row: where it differs from DeepSeekMath's GRPO (the defaults of `Objective`).

Two tables. `PRESETS` holds loss and advantage axes; `RECIPE_DEFAULTS` holds what the same paper sets beside the loss.
`docs/algorithm.md` prints both with paper, reasons and the names that other libraries use. Pure data, no imports.

Cells the papers leave open carry a comment "not published".
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

_KL_OFF: Row = {"kl": "k3_corrected", "beta": 0.0}
"""No KL term; a user who raises `beta` gets the estimator that is right on and off policy."""
_TOKENS: Row = {"aggregation": "token_mean"}
_CENTRED: Row = {"scale": "none"}
"""Group mean only, no standard deviation."""
_LOO: Row = {"baseline": "group_loo", "scale": "none"}
_ON_POLICY: Row = {"anchor": "self", "trust_region": "reinforce"}
_SEQUENCE_CLIP: Row = {"level": "seq_geo", "epsilon_low": 3e-4, "epsilon_high": 4e-4}
_CLIP_HIGHER: Row = {"epsilon_high": 0.28}
_ICEPOP: Row = {"mismatch": "token_mask", "mismatch_min": 0.5, "mismatch_max": 5.0}
_SQUARED: Row = {**_CENTRED, **_KL_OFF, "trust_region": "squared", "level": "seq_prod", "tau": 0.1}  # tau not published

PRESETS: dict[str, Row] = {
    "grpo": {},
    "grpo_process": {},
    "r1_zero": {"beta": 0.001},
    "r1": {"beta": 0.001, "epsilon_low": 10.0, "epsilon_high": 10.0},
    "trl_default": {**_KL_OFF, **_TOKENS, "mismatch": "seq_mask", "mismatch_max": 3.0},
    "verl_default": {**_TOKENS, "kl": "k3", "beta": 0.0, "eps": 1e-6, "delta": 3.0},
    "dr_grpo": {**_CENTRED, **_KL_OFF, "aggregation": "constant"},
    "dapo": {**_KL_OFF, **_TOKENS, **_CLIP_HIGHER, "mask_truncated": True},
    "bnpo_trl": {**_KL_OFF, **_TOKENS},
    "gspo": {**_KL_OFF, **_SEQUENCE_CLIP},
    "gspo_token": {**_KL_OFF, **_SEQUENCE_CLIP, "level": "seq_geo_token"},
    "luspo": {
        **_KL_OFF,
        "level": "seq_geo",
        "epsilon_low": 2e-3,
        "epsilon_high": 2.5e-3,
        "aggregation": "seq_mean_token_sum",
    },
    "cispo": {**_KL_OFF, **_TOKENS, "trust_region": "weight_clip", "weight_max": 5.0},
    "scalerl": {
        **_KL_OFF,
        "scale": "batch_std_centred",
        "anchor": "rollout",
        "trust_region": "weight_clip",
        "weight_max": 8.0,  # the paper finds 4 to 8 alike
        "aggregation": "prompt_mean",
    },
    "sapo": {**_KL_OFF, "trust_region": "sapo"},
    "gmpo": {**_KL_OFF, "trust_region": "geo_clip", "epsilon_low": 0.4, "epsilon_high": 0.4},
    "vespo": {
        **_KL_OFF,
        **_TOKENS,
        "trust_region": "gamma",
        "level": "seq_prod",
        "mismatch": "token_truncate",
        "mismatch_max": 2.0,
    },
    "rloo": {
        **_LOO,
        **_ON_POLICY,
        "aggregation": "seq_mean_token_sum",
        "kl": "none",
        "kl_in_reward": "k1",
        "beta": 0.03,
    },
    "rloo_trl": {**_LOO, "level": "seq_prod", "kl": "none", "kl_in_reward": "k1", "beta": 0.05},
    "reinforce_pp": {
        **_TOKENS,
        "baseline": "none",
        "scale": "token_whiten",
        "kl": "none",
        "kl_in_reward": "k1",
        "beta": 0.01,
    },
    "reinforce_pp_baseline": {**_TOKENS, "scale": "token_whiten", "kl": "k2", "beta": 0.001},
    "lite_ppo": {**_KL_OFF, **_TOKENS, "scale": "batch_std"},
    "gdpo": {**_KL_OFF, **_TOKENS, "combine": "normalise_each"},
    "opo": {**_KL_OFF, **_TOKENS, **_ON_POLICY, "baseline": "length_weighted", "scale": "none"},
    "gpg": {**_KL_OFF, **_TOKENS, **_ON_POLICY, "scale": "nonzero"},
    "maxrl": {**_KL_OFF, **_TOKENS, "scale": "group_mean"},
    "passk": {**_KL_OFF, **_TOKENS, "baseline": "passk", "scale": "passk_std"},
    "grpo_passk": {**_KL_OFF, "baseline": "best_minus_second", "scale": "none"},
    "remax": {
        **_ON_POLICY,
        "baseline": "greedy",
        "scale": "none",
        "aggregation": "seq_mean_token_sum",
        "kl": "none",
        "kl_in_reward": "k1",
        "beta": 0.01,
    },
    "rae": {**_KL_OFF, **_TOKENS, **_ON_POLICY, "baseline": "ema", "scale": "none"},
    "intellect2": {**_TOKENS, "delta": 4.0, "beta": 0.001},
    "intellect3": {**_CENTRED, **_KL_OFF, **_TOKENS, **_ICEPOP, "trust_region": "ratio"},
    "icepop": {**_KL_OFF, **_TOKENS, **_ICEPOP},
    "prime_rl": {
        **_CENTRED,
        **_KL_OFF,
        **_TOKENS,
        "anchor": "rollout",
        "trust_region": "div_mask",
        "log_ratio_penalty": 1e-3,
    },
    "prime_rl_ipo": {
        **_CENTRED,
        **_KL_OFF,
        **_TOKENS,
        "anchor": "rollout",
        "trust_region": "abs_mask",
        "threshold": 0.1,
        "log_ratio_penalty": 1e-3,
    },
    "dppo": {
        **_CENTRED,
        **_KL_OFF,
        **_TOKENS,
        "anchor": "rollout",
        "trust_region": "div_mask",
        "weight_cap": 20.0,
    },
    "m2po": {**_KL_OFF, **_TOKENS, "anchor": "rollout", "trust_region": "m2_mask", "threshold": 0.04},
    "aipo": {
        **_CENTRED,
        **_KL_OFF,
        **_TOKENS,
        "anchor": "rollout",
        "trust_region": "weight_clip",
        "weight_max": 4.0,  # the paper gives the range 2 to 10
    },
    "areal": {**_KL_OFF, **_TOKENS, "combine": "normalise_each", "mismatch": "token_truncate"},
    "kimi_k15": _SQUARED,
    "kimi_k2": _SQUARED,
    "kimi_k25": {
        **_CENTRED,
        **_KL_OFF,
        **_TOKENS,
        "trust_region": "band_mask",
        "log_ratio_penalty": 1e-3,  # not published, nor is the band
    },
    "dro": {**_CENTRED, **_KL_OFF, **_TOKENS, "trust_region": "dro", "tau": 0.1},
    "tinker": {**_CENTRED, **_KL_OFF, "anchor": "rollout", "trust_region": "ratio", "aggregation": "token_sum"},
    "open_instruct": {
        **_TOKENS,
        "kl": "k3",
        "beta": 0.0,
        "epsilon_high": 0.272,
        "mismatch": "token_truncate",
        "mismatch_max": 2.0,
    },
    "topr": {
        **_KL_OFF,
        "baseline": "none",
        "scale": "none",
        "anchor": "rollout",
        "level": "seq_prod",
        "trust_region": "topr",
        "aggregation": "seq_mean_token_sum",
    },
    "luffy": {**_KL_OFF, **_TOKENS, "trust_region": "luffy", "entropy_coef": 0.01},
    "entropy_8020": {**_KL_OFF, **_TOKENS, **_CLIP_HIGHER, "top_entropy": 0.2},
    "kl_cov": {**_KL_OFF, **_TOKENS, "trust_region": "ratio", "covariance": "kl_cov"},
    "clip_cov": {**_KL_OFF, **_TOKENS, "covariance": "clip_cov"},
    "dsv32": {"kl": "k3_corrected", "beta": 0.001, "off_policy_threshold": 0.5},
    "nanochat": {**_CENTRED, **_KL_OFF, **_TOKENS, **_ON_POLICY},
}
"""Preset -> the fields of `Objective` that differ from its defaults (`grpo` is the defaults)."""

ALIASES: dict[str, str] = {
    "bnpo": "bnpo_trl",
    "reinforce++": "reinforce_pp",
    "reinforce++_baseline": "reinforce_pp_baseline",
    "deepseek_r1": "r1",
    "dppo_tv": "dppo",
}
"""Other spellings of the names above."""

RECIPE_DEFAULTS: dict[str, Row] = {
    "grpo_process": {"process_rewards": True},
    "r1_zero": {"ref_model_reset_steps": 400, "num_minibatches": 16},
    "r1": {"ref_model_reset_steps": 400, "num_minibatches": 16},
    "dapo": {"dynamic_sampling": True, "overlong_cache": 0.2, "num_minibatches": 16},
    "gspo": {"num_minibatches": 4},
    "gspo_token": {"num_minibatches": 4},
    "luspo": {"num_minibatches": 4},
    "cispo": {"dynamic_sampling": True, "num_minibatches": 16},
    "scalerl": {"dynamic_sampling": True, "max_pass_rate": 0.9},
    "intellect2": {"dynamic_sampling": True, "num_minibatches": 8},
    "prime_rl": {"dynamic_sampling": True},
    "entropy_8020": {"dynamic_sampling": True, "num_minibatches": 16},
    "areal": {"num_minibatches": 4},
}
"""Preset -> recipe fields that its paper sets beside the loss; the user's own keys win.

`dynamic_sampling` draws again until the step has enough groups with signal; `overlong_cache` is the length of DAPO's
soft zone as a share of `max_completion_length`; `max_pass_rate` drops prompts that are solved more often.
"""
