"""The objective: one frozen value that picks the member of the GRPO family to train.

    L = sum_it W_it { k_it w_it Lpg(x_it, A_it, l_it) + beta KL_it } - c_H H

Each field (`axes.py`) picks one axis: advantage (baseline, scale), log-ratio x (anchor, level), trust region Lpg,
aggregation W, KL, mismatch weight w, keep-mask k. A named algorithm is a row of `presets.py`. Standard library only:
choosing an objective loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from groupwise.algo import rules
from groupwise.algo.axes import DEFAULT_THRESHOLD, GROUP_BASELINES, POOLED_LEVELS, SEQUENCE_REGIONS, Axes, Score
from groupwise.algo.presets import ALIASES, PRESETS, RECIPE_DEFAULTS
from groupwise.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective(Axes):
    """A checked choice for each axis, by name or field by field; the fields are those of `Axes`."""

    def __post_init__(self) -> None:
        for name in ("gamma_pos", "gamma_neg"):
            object.__setattr__(self, name, rules.pair(name, getattr(self, name)))
        if self.threshold is None:
            object.__setattr__(self, "threshold", DEFAULT_THRESHOLD.get(self.trust_region))
        rules.check_choices(self)
        rules.check_numbers(self)
        for is_wrong, message in rules.contradictions(self):
            if is_wrong:
                raise ConfigError(message)

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> Objective:
        """The named algorithm with some fields replaced.

        Raises:
            ConfigError: unknown name or field (with the nearest known one), or a value that contradicts the rest.
        """
        known = {field.name for field in fields(cls)}
        for key in overrides:
            if key not in known:
                raise ConfigError(f'unknown objective field "{key}".{did_you_mean(key, known)}')
        return cls(**{**PRESETS[preset_name(name)], **overrides})

    @staticmethod
    def preset_names() -> tuple[str, ...]:
        """Every name that `preset` knows, in the order of the table."""
        return tuple(PRESETS)

    @staticmethod
    def recipe_defaults(name: str) -> dict[str, Any]:
        """Recipe keys that the algorithm sets beside the loss (dynamic sampling, overlong, reference, minibatches)."""
        return dict(RECIPE_DEFAULTS.get(preset_name(name), {}))

    @property
    def uses_kl(self) -> bool:
        """Whether the loss has a KL term."""
        return self.kl != "none" and self.beta > 0

    @property
    def uses_kl_in_reward(self) -> bool:
        return self.kl_in_reward != "none" and self.beta > 0

    @property
    def is_group_relative(self) -> bool:
        """Whether a group without signal has advantages of exactly 0."""
        return (self.baseline in GROUP_BASELINES or self.scale == "group_std") and not self.uses_kl_in_reward

    @property
    def acts_without_advantage(self) -> bool:
        """Whether a completion whose advantage is 0 still has a gradient, so that its pass cannot be skipped."""
        has_penalty = self.log_ratio_penalty > 0 or self.covariance == "kl_cov" or self.entropy_coef > 0
        return self.uses_kl or has_penalty or self.trust_region in ("squared", "dro")

    @property
    def has_token_advantages(self) -> bool:
        """Whether the advantages differ from token to token."""
        return self.scale == "token_whiten"

    @property
    def takes_token_advantages(self) -> bool:
        """Whether advantages may differ from token to token: not where a ratio is pooled over the sequence."""
        return self.level not in POOLED_LEVELS and self.trust_region not in SEQUENCE_REGIONS

    @property
    def needs(self) -> frozenset[Score]:
        """Which scores the loss or the advantages read besides the policy's own log-probs.

        `old` can be left out (it then is the current policy) while a rollout pays for one optimizer step only, except
        with the KL in the reward.
        """
        wanted: dict[Score, bool] = {
            "old": self.anchor == "old" or self.mismatch != "none" or self.uses_kl_in_reward,
            "rollout": self.anchor == "rollout" or self.mismatch != "none",
            "ref": self.uses_kl or self.uses_kl_in_reward,
            "entropy": self.top_entropy is not None or self.entropy_coef > 0,
        }
        return frozenset(name for name, is_wanted in wanted.items() if is_wanted)

    @property
    def needs_forward(self) -> bool:
        """Whether a mask spans the step and reads the current policy: one no-gradient pass for each optimizer step."""
        return self.top_entropy is not None or self.covariance is not None or self.trust_region == "m2_mask"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Choices that are allowed and often mistakes, each with its reason."""
        return tuple(message for is_odd, message in rules.oddities(self) if is_odd)

    def check_run(self, *, num_generations: int, updates_per_rollout: int = 1) -> tuple[str, ...]:
        """Hold the objective against the run it is meant for; returns its warnings.

        Raises:
            ConfigError: group statistics of one completion, pass@k with k over G, or several updates on-policy.
        """
        for is_wrong, message in rules.run_contradictions(self, num_generations, updates_per_rollout):
            if is_wrong:
                raise ConfigError(message)
        pair = self.scale == "group_std" and num_generations == 2 and self.ddof == 1
        note = "num_generations 2 with scale group_std: every advantage is +0.707 or -0.707, whatever the margin."
        return (*self.warnings, note) if pair else self.warnings


def preset_name(name: str) -> str:
    """The canonical preset name of a spelling, in any case and with dashes or underscores."""
    plain = str(name).strip().lower().replace("-", "_")
    plain = ALIASES.get(plain, plain)
    if plain not in PRESETS:
        known = [*PRESETS, *ALIASES]
        raise ConfigError(f'unknown objective "{name}".{did_you_mean(plain, known)} Known: {", ".join(PRESETS)}.')
    return plain
