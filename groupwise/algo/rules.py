"""The rules that an objective keeps: values, ranges, and what holds between axes, each with its reason.

Standard library only. `objective.py` calls these when an objective is built.
"""

from __future__ import annotations

from math import inf, isnan
from typing import Any

from groupwise.algo.axes import CHOICES, GROUP_BASELINES, OPTIONAL, POOLED_LEVELS, RANGES, SEQUENCE_REGIONS, Axes
from groupwise.errors import ConfigError, did_you_mean

_REASONS = {
    ("kl", "k1"): "As a loss k1 has an expected gradient of 0; use k3_corrected, or kl_in_reward: k1.",
    ("kl_in_reward", "k2"): "In the reward only k1 has the gradient of the KL.",
    ("kl_in_reward", "k3"): "In the reward only k1 has the gradient of the KL.",
}


def check_choices(axes: Axes) -> None:
    """Raise `ConfigError` for a value that is not one of its field's, with the reason or the nearest value."""
    for name, allowed in CHOICES.items():
        value = getattr(axes, name)
        if value in allowed:
            continue
        hint = _REASONS.get((name, str(value))) or did_you_mean(str(value), [a for a in allowed if a]).strip()
        listed = ", ".join(str(a) for a in allowed)
        raise ConfigError(f'objective: {name} is "{value}". {hint} Allowed: {listed}.'.replace("  ", " "))


def check_numbers(axes: Axes) -> None:
    """Raise `ConfigError` for a number that is not one or lies outside its range."""
    for name, (low, high) in RANGES.items():
        value = getattr(axes, name)
        if value is None and name in OPTIONAL:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or isnan(value):
            raise ConfigError(f"objective: {name} is {value!r}; expected a number.")
        if not low <= value <= high:
            raise ConfigError(f"objective: {name} is {value}; expected {low:g} to {high:g}.")


def pair(name: str, value: Any) -> tuple[float, float]:
    """The value as (k, lambda), from a tuple or a YAML list."""
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(isinstance(v, int | float) for v in value):
        raise ConfigError(f"objective: {name} is {value!r}; expected two numbers, (k, lambda).")
    return (float(value[0]), float(value[1]))


def contradictions(o: Axes) -> list[tuple[bool, str]]:
    """(holds, sentence) for each rule that rejects an objective."""
    low, high = o.mismatch_min or 0.0, inf if o.mismatch_max is None else o.mismatch_max
    whitens = o.scale == "token_whiten"
    return [
        (
            o.delta is not None and o.trust_region not in ("clip", "luffy"),
            f"objective: delta bounds the ratio of the clip; trust_region {o.trust_region} has none. Set delta: null.",
        ),
        (
            o.delta is not None and o.delta <= 1 + o.epsilon_high,
            f"objective: delta {o.delta} must be above 1 + epsilon_high = {1 + o.epsilon_high}.",
        ),
        (
            o.anchor == "rollout" and o.mismatch != "none",
            "objective: with anchor rollout the ratio already corrects the mismatch; set mismatch: none.",
        ),
        (
            o.trust_region == "gamma" and o.mismatch not in ("none", "token_truncate", "token_mask"),
            f"objective: gamma multiplies the token weights of a sequence; mismatch {o.mismatch} would count twice. "
            "Use token_truncate or token_mask.",
        ),
        (
            whitens and (o.level in POOLED_LEVELS or o.trust_region in SEQUENCE_REGIONS),
            f"objective: scale token_whiten gives each token its own advantage, which level {o.level} with "
            f"trust_region {o.trust_region} cannot use. Use level seq_geo_token or token.",
        ),
        (
            o.trust_region == "weight_clip" and o.weight_max < 1,
            f"objective: weight_max {o.weight_max} is the absolute cap and would shrink on-policy tokens. "
            f"For a cap written as 1 + epsilon set {1 + o.weight_max}.",
        ),
        (
            o.weight_min > o.weight_max,
            f"objective: weight_min {o.weight_min} is above weight_max {o.weight_max}.",
        ),
        (o.band_low >= o.band_high, f"objective: band_low {o.band_low} must be below band_high {o.band_high}."),
        (low > high, f"objective: mismatch_min {low} is above mismatch_max {high}."),
        (
            (o.baseline == "passk") != (o.scale == "passk_std") and (o.baseline, o.scale) != ("passk", "none"),
            f"objective: baseline {o.baseline} with scale {o.scale}: passk goes with passk_std or none, and only they "
            "with it.",
        ),
        (
            o.combine == "normalise_each" and whitens,
            "objective: combine normalise_each ends in a z-score over the batch; set another scale than token_whiten.",
        ),
    ]


def oddities(o: Axes) -> list[tuple[bool, str]]:
    """(holds, sentence) for each rule that warns."""
    eps = max(o.epsilon_low, o.epsilon_high)
    is_geometric = o.level in ("seq_geo", "seq_geo_token")
    by_token = o.mismatch in ("token_truncate", "token_mask", "seq_mask_tis") or bool(o.top_entropy or o.covariance)
    pooled = o.level in POOLED_LEVELS and o.trust_region != "gamma"
    return [
        (
            o.trust_region == "clip" and is_geometric and eps >= 0.01,
            f"epsilon {eps} with level {o.level}: a length-normalised ratio moves about 1000 times less than that of a "
            "token; GSPO uses 3e-4 / 4e-4.",
        ),
        (
            o.trust_region == "clip" and o.level == "token" and eps <= 0.01,
            f"epsilon {eps} with level token clips nearly every token; PPO uses 0.2.",
        ),
        (
            by_token and pooled,
            f"token weights or masks with level {o.level}: every token carries the whole sequence's gradient; "
            "use level seq_geo_token.",
        ),
        (
            o.aggregation in ("seq_mean_token_sum", "token_sum"),
            f"aggregation {o.aggregation}: the gradient grows with the length; review learning_rate and max_grad_norm.",
        ),
        (
            o.trust_region == "div_mask" and o.anchor != "rollout",
            f"trust_region div_mask measures the distance to the policy that sampled; anchor is {o.anchor}.",
        ),
        (
            o.kl_in_reward != "none" and o.kl != "none" and o.beta > 0,
            "the KL stands in the reward and in the loss; set kl: none or kl_in_reward: none.",
        ),
    ]


def run_contradictions(o: Axes, num_generations: int, updates_per_rollout: int) -> list[tuple[bool, str]]:
    """(holds, sentence) for each rule between an objective and its run."""
    uses_group = o.baseline in GROUP_BASELINES or o.scale == "group_std"
    return [
        (
            num_generations < 2 and uses_group,
            f"num_generations is {num_generations}, so a completion would have no others to be compared with and "
            f"nothing would be learnt (baseline {o.baseline}, scale {o.scale}). Set it to 2 or more; 8 is usual.",
        ),
        (
            o.baseline == "passk" and o.pass_k > num_generations,
            f"objective: pass_k {o.pass_k} is above num_generations {num_generations}.",
        ),
        (
            o.anchor == "self" and updates_per_rollout > 1,
            f"objective: anchor self is exact for one update a rollout; here a rollout pays for {updates_per_rollout}. "
            "Set num_minibatches and num_iterations to 1, or anchor: old.",
        ),
    ]
