"""Every setting of a run as one value: the fields of all sections, the objective, and what follows from both.

What checks or reads a configuration takes `Settings`; `GRPOConfig` builds one from what a user wrote.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import PrivateAttr

from groupwise.algo.objective import Objective
from groupwise.config.fields import (
    BesideFields,
    CurriculumFields,
    GuardFields,
    ModelFields,
    OptimizerFields,
    ReferenceFields,
    RunFields,
    SamplingFields,
    StepFields,
)


class Settings(
    RunFields,
    StepFields,
    SamplingFields,
    ReferenceFields,
    BesideFields,
    CurriculumFields,
    OptimizerFields,
    GuardFields,
    ModelFields,
):
    """The fields of every section, and the objective."""

    _as_written: Mapping[str, Any] = PrivateAttr(default_factory=dict)
    _preset: str = PrivateAttr(default="grpo")
    _objective: Objective = PrivateAttr()

    @property
    def as_written(self) -> Mapping[str, Any]:
        """The keyword arguments as they were given."""
        return self._as_written

    @property
    def preset(self) -> str:
        """Name of the algorithm that the objective starts from."""
        return self._preset

    @property
    def objective(self) -> Objective:
        """The loss and the advantages, every axis decided. The only objective of a run."""
        return self._objective

    @property
    def beta(self) -> float:
        """Weight of the KL divergence from the reference."""
        return self._objective.beta

    @property
    def epsilon(self) -> float:
        """How far below 1 the probability ratio may go before it is clipped."""
        return self._objective.epsilon_low

    @property
    def is_trl(self) -> bool:
        """Whether metrics have TRL's definitions in the log."""
        return False

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps that one rollout pays for."""
        return self.num_minibatches * self.num_iterations

    def num_steps(self, num_problems: int) -> int:
        """Steps of a run over that many problems."""
        epochs = self.num_train_epochs * num_problems / self.prompts_per_step
        return self.max_steps if self.max_steps > 0 else math.ceil(epochs)

    @property
    def completions_per_step(self) -> int:
        """Completions in one rollout."""
        return self.prompts_per_step * self.num_generations
