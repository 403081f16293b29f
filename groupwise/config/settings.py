"""Every setting of a run as one immutable value: the fields of all sections, the objective, what follows from both.

The package reads `Settings`; `make_settings.py` builds one from what a user wrote.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import PrivateAttr

from groupwise.algo.objective import Objective
from groupwise.config import guards
from groupwise.config import objective_keys as objectives
from groupwise.config.fields import (
    SECTIONS,
    BesideFields,
    CurriculumFields,
    EnvironmentFields,
    GuardFields,
    ModelFields,
    OptimizerFields,
    ReferenceFields,
    RunFields,
    SamplingFields,
    ServerFields,
    StepFields,
)


class Settings(
    RunFields,
    StepFields,
    SamplingFields,
    EnvironmentFields,
    ServerFields,
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
    _notes: tuple[str, ...] = PrivateAttr(default=())

    def complete(self, written: Mapping[str, Any], preset: str, objective: Objective) -> None:
        """Add what is made of several keys; `make_settings` alone calls this, and `keep_notes`."""
        self._as_written, self._preset, self._objective = written, preset, objective

    def keep_notes(self, notes: tuple[str, ...]) -> None:
        self._notes = notes

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
        return self.conventions == "trl"

    def is_logged(self, step: int) -> bool:
        """Whether `log_history` and trackers get an entry after this step."""
        every = self.logging_steps
        return (bool(every) and step % every == 0) or (step == 1 and self.logging_first_step)

    def are_tokens_recorded(self, step: int) -> bool:
        """Whether this step has a per-token record."""
        return bool(self.log_token_stats_steps) and step % self.log_token_stats_steps == 0

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps that one rollout pays for."""
        return self.num_minibatches * self.num_iterations

    def peak_learning_rate(self, *, has_adapter: bool = False) -> float:
        """`learning_rate`; unset, 1e-6, or 1e-5 with an adapter, whose optimum is about ten times higher."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-5 if has_adapter else 1e-6

    def num_warmup_steps(self, num_updates: int) -> int:
        """Optimizer steps of the warm-up in a run of so many; a share is rounded up, as in transformers."""
        return self.warmup_steps or math.ceil(self.warmup_ratio * num_updates)

    def steps_per_epoch(self, num_problems: int) -> float:
        """Steps of an epoch over that many problems; not a whole number where steps cross epochs."""
        steps = num_problems / self.prompts_per_step
        return float(math.floor(steps)) if self.drop_incomplete_step else steps

    def num_steps(self, num_problems: int) -> int:
        """Steps of a run over that many problems."""
        steps = self.num_train_epochs * self.steps_per_epoch(num_problems)
        return self.max_steps if self.max_steps > 0 else math.ceil(steps)

    @property
    def completions_per_step(self) -> int:
        """Completions in one rollout."""
        return self.prompts_per_step * self.num_generations

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about keys that were ignored or counted differently."""
        return self._notes

    def describe(self) -> list[str]:
        """The batch, the objective and every note, in plain words, one line each."""
        prompts = _counted(self.prompts_per_step, "prompt")
        completions = _counted(self.num_generations, "completion")
        updates = _counted(self.updates_per_step, "update")
        lines = [f"{prompts} x {completions} = {self.completions_per_step} completions a step, {updates}"]
        lines.append(objectives.describe(self._preset, self._objective))
        if self._objective.needs_forward:
            lines.append("The objective's masks read the current policy: one more forward pass for each update.")
        return [*lines, *self._notes]

    def resolved(self) -> dict[str, Any]:
        """Every field with its value and the objective with every axis, ready for JSON. Builds equal settings."""
        fields = {name: getattr(self, name) for section in SECTIONS for name in section.model_fields}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
        plain["guards"] = guards.resolved(self.guards)
        return {**plain, "objective": objectives.as_mapping(self._preset, self._objective)}

    def __eq__(self, other: object) -> bool:
        return self.resolved() == other.resolved() if isinstance(other, Settings) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it holds dicts


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")
