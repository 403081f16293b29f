"""The coefficients of KL and entropy bonus: fixed, or steered by what the updates measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from groupwise.algo import AdaptiveEntropy, AdaptiveKL
from groupwise.config import Settings


class Coefficients:
    """`beta` and `entropy_coef` of the next optimizer step."""

    def __init__(self, config: Settings) -> None:
        objective = config.objective
        self._fixed_beta, self._fixed_entropy_coef = objective.beta, objective.entropy_coef
        self._kl: AdaptiveKL | None = None
        self._entropy: AdaptiveEntropy | None = None
        if config.kl_target is not None:
            self._kl = AdaptiveKL(objective.beta, config.kl_target, config.kl_horizon)
        if config.use_adaptive_entropy:
            self._entropy = AdaptiveEntropy(
                objective.entropy_coef,
                config.entropy_target,
                config.entropy_coef_delta,
                config.entropy_coef_min,
                config.entropy_coef_max,
            )

    @property
    def beta(self) -> float:
        return self._fixed_beta if self._kl is None else self._kl.coefficient

    @property
    def entropy_coef(self) -> float:
        return self._fixed_entropy_coef if self._entropy is None else self._entropy.coefficient

    @property
    def follows_entropy(self) -> bool:
        """Whether `after_update` needs the entropy."""
        return self._entropy is not None

    @property
    def has_entropy_bonus(self) -> bool:
        """Whether the loss has an entropy term in some step: an adaptive coefficient may grow from 0."""
        return self._entropy is not None or self._fixed_entropy_coef > 0

    def after_update(self, entropy: float | None) -> None:
        """Take in the mean entropy (nats per token) of an optimizer step."""
        if self._entropy is not None and entropy is not None:
            self._entropy = self._entropy.update(entropy)

    def after_rollout(self, kl: float | None, num_completions: int) -> None:
        """Take in the mean KL (nats per token) over the updates of a rollout of so many completions."""
        if self._kl is not None and kl is not None:
            self._kl = self._kl.update(kl, num_completions)

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {name: None if c is None else asdict(c) for name, c in (("kl", self._kl), ("entropy", self._entropy))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was; targets and bounds are those of this run's configuration."""
        if self._kl is not None and state["kl"] is not None:
            self._kl = replace(self._kl, coefficient=state["kl"]["coefficient"])
        if self._entropy is not None and state["entropy"] is not None:
            saved = state["entropy"]
            self._entropy = replace(self._entropy, value=saved["value"], is_active=saved["is_active"])
