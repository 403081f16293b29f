"""The axes of an objective: the values of each, its range and its default.

Standard library only. `objective.py` adds names and derived properties, `rules.py` the rules between the axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

Baseline = Literal[
    "none", "group_mean", "group_loo", "batch_mean", "length_weighted", "ema", "greedy", "best_minus_second", "passk"
]
Scale = Literal[
    "none", "group_std", "batch_std", "batch_std_centred", "token_whiten", "group_mean", "passk_std", "nonzero"
]
Combine = Literal["weighted_sum", "normalise_each"]
KLInReward = Literal["none", "k1"]
Anchor = Literal["self", "old", "rollout"]
Level = Literal["token", "seq_geo", "seq_geo_token", "seq_prod"]
TrustRegion = Literal[
    "reinforce",
    "ratio",
    "clip",
    "weight_clip",
    "sapo",
    "geo_clip",
    "gamma",
    "div_mask",
    "abs_mask",
    "band_mask",
    "m2_mask",
    "topr",
    "luffy",
    "squared",
    "dro",
]
Aggregation = Literal["seq_mean_token_mean", "token_mean", "prompt_mean", "constant", "seq_mean_token_sum", "token_sum"]
KL = Literal["none", "k2", "k3", "k3_corrected", "k3_plus"]
Mismatch = Literal[
    "none",
    "token_truncate",
    "token_mask",
    "seq_truncate",
    "seq_mask",
    "geo_truncate",
    "geo_mask",
    "seq_mask_tis",
]
Divergence = Literal["tv", "kl"]
Covariance = Literal["clip_cov", "kl_cov"]
Score = Literal["old", "rollout", "ref", "entropy"]

GROUP_BASELINES = ("group_mean", "group_loo", "length_weighted", "best_minus_second", "passk")
"""Baselines that compare a completion with its own group alone."""
SEQUENCE_REGIONS = ("geo_clip", "gamma", "squared")
"""Trust regions that pool the tokens of a sequence themselves."""
POOLED_LEVELS = ("seq_geo", "seq_prod")
"""Levels whose ratio is one number a sequence."""
DEFAULT_THRESHOLD = {"abs_mask": 0.1, "m2_mask": 0.04}
"""Trust region -> `threshold` where none was set."""

RANGES: dict[str, tuple[float, float]] = {
    "ddof": (0, 1),
    "eps": (0, inf),
    "pass_k": (1, inf),
    "ema_decay": (0, 1),
    "epsilon_low": (0, inf),
    "epsilon_high": (0, inf),
    "delta": (0, inf),
    "weight_min": (0, inf),
    "weight_max": (0, inf),
    "tau_pos": (1e-12, inf),
    "tau_neg": (1e-12, inf),
    "divergence_low": (0, inf),
    "divergence_high": (0, inf),
    "weight_cap": (1e-12, inf),
    "band_low": (-inf, inf),
    "band_high": (-inf, inf),
    "threshold": (0, inf),
    "shaping": (1e-12, inf),
    "tau": (0, inf),
    "log_ratio_penalty": (0, inf),
    "max_length": (1, inf),
    "beta": (0, inf),
    "mismatch_min": (0, inf),
    "mismatch_max": (0, inf),
    "top_entropy": (1e-12, 1),
    "off_policy_threshold": (0, inf),
    "covariance_fraction": (0, 1),
    "covariance_coef": (0, inf),
    "covariance_low": (-inf, inf),
    "covariance_high": (-inf, inf),
    "entropy_coef": (0, inf),
}
"""Number -> its smallest and largest value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """One choice for each axis. The defaults are DeepSeekMath's GRPO, eq. (3) and (4)."""

    baseline: Baseline = "group_mean"
    scale: Scale = "group_std"
    ddof: int = 1
    """1: sample standard deviation (Bessel), 0: population."""
    eps: float = 1e-4
    """Added to the standard deviation."""
    combine: Combine = "weighted_sum"
    """Several rewards: weighted and summed, or each normalised in its group first (GDPO)."""
    pass_k: int = 4
    """k of the `passk` baseline."""
    ema_decay: float = 0.95
    """Decay of the `ema` baseline."""
    kl_in_reward: KLInReward = "none"

    anchor: Anchor = "old"
    """What the ratio divides by: the policy now (ratio 1), at the start of the step, or the one that sampled."""
    level: Level = "token"
    trust_region: TrustRegion = "clip"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    delta: float | None = None
    """Upper bound of the ratio for negative advantages (dual clip)."""
    weight_min: float = 0.0
    weight_max: float = 5.0
    """Bounds of the detached weight of `weight_clip`, absolute: 5.0 means at most 5."""
    tau_pos: float = 1.0
    tau_neg: float = 1.05
    gamma_pos: tuple[float, float] = (2.0, 3.0)
    gamma_neg: tuple[float, float] = (3.0, 2.0)
    """(k, lambda) of VESPO for A >= 0 and A < 0."""
    divergence: Divergence = "tv"
    divergence_low: float = 0.2
    divergence_high: float = 0.2
    """Binary divergence above which a token that moves away is dropped: for A < 0 and A > 0."""
    weight_cap: float | None = None
    """`div_mask`: cap of the detached ratio; None keeps the ratio in the graph, uncapped."""
    band_low: float = -0.5
    band_high: float = 0.5
    """Bounds of the log-ratio for `band_mask`."""
    threshold: float | None = None
    """`abs_mask`: largest |pi - mu| (0.1); `m2_mask`: largest mean squared log-ratio (0.04)."""
    shaping: float = 0.1
    """gamma of LUFFY's pi / (pi + gamma)."""
    tau: float = 0.1
    """Weight of the log-ratio in `squared` and `dro`."""
    log_ratio_penalty: float = 0.0
    """Adds this much times the squared token log-ratio."""

    aggregation: Aggregation = "seq_mean_token_mean"
    max_length: int | None = None
    """L of `constant` (Dr. GRPO); the trainer fills in `max_completion_length`."""

    kl: KL = "k3"
    beta: float = 0.04
    """Coefficient of the KL, in the loss or in the reward."""

    mismatch: Mismatch = "none"
    mismatch_min: float | None = None
    mismatch_max: float | None = None

    mask_truncated: bool = False
    top_entropy: float | None = None
    """Share of the tokens, by entropy, that carries the policy gradient."""
    off_policy_threshold: float | None = None
    covariance: Covariance | None = None
    covariance_fraction: float = 2e-4
    covariance_coef: float = 1.0
    covariance_low: float = 1.0
    covariance_high: float = 5.0

    entropy_coef: float = 0.0


def _values(hint: Any) -> tuple[Any, ...]:
    """The values of a `Literal`, or of `Literal | None`; empty for any other type."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    inner = next((get_args(part) for part in get_args(hint) if get_origin(part) is Literal), ())
    return (*inner, None) if inner else ()


_HINTS = get_type_hints(Axes)

CHOICES: dict[str, tuple[Any, ...]] = {name: _values(hint) for name, hint in _HINTS.items() if _values(hint)}
"""Axis that is a choice -> its values."""
OPTIONAL = frozenset(name for name, hint in _HINTS.items() if NoneType in get_args(hint))
"""Axes that may be None: off, or a number that follows from the other axes."""
