"""`GRPOConfig`: everything that governs training, checked as a whole before anything is loaded."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr, ValidationError

from groupwise.config import guards
from groupwise.config import objective_keys as objectives
from groupwise.config.checks import check_together
from groupwise.config.compat.batch_words import translate_batch
from groupwise.config.compat.foreign_getters import ONE_PROCESS, read_foreign
from groupwise.config.compat.translate import FOREIGN, Translation, translate
from groupwise.config.defaults import adopt_recipe_defaults
from groupwise.config.fields import SECTIONS
from groupwise.config.mistakes import Mistakes
from groupwise.config.settings import Settings
from groupwise.errors import ConfigError


class GRPOConfig(Settings):
    """Settings of a GRPO run. Nothing set is DeepSeekMath's GRPO.

    Keyword arguments are the fields (docs/config.md), the axes of the objective, and the ecosystem's names for both
    (docs/from-trl.md). The object is read-only; `replace` makes a changed one. Lengths are tokens, steps are rollouts.

    Raises:
        ConfigError: everything that is wrong, at once, a sentence each.
    """

    _notes: tuple[str, ...] = PrivateAttr(default=())

    def __init__(self, output_dir: str | os.PathLike[str] | None = None, /, **written: Any) -> None:
        if output_dir is not None:
            written = {"output_dir": output_dir, **written}
        problems = Mistakes("GRPOConfig")
        state = translate_batch(translate(written, problems))
        loss = objectives.flatten(state.objective, problems)
        state = adopt_recipe_defaults(state, loss.preset)
        is_valid = self._set_fields(state)
        objective, notes = objectives.resolve(loss, state.fields.get("max_completion_length", 512), problems)
        if is_valid and objective is not None:
            self._as_written, self._preset, self._objective = written, loss.preset, objective
            notes += check_together(self, problems)
        problems.raise_if_any()
        self._notes = state.notes + notes

    def _set_fields(self, state: Translation) -> bool:
        """Let pydantic check types and ranges; whether they all fit."""
        try:
            super().__init__(**state.fields)
        except (ValidationError, UnicodeEncodeError) as error:
            state.problems.add_invalid(error, Settings)
            return False
        return True

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
        """Every field with its value and the objective with every axis, ready for JSON. Builds an equal config."""
        fields = {name: getattr(self, name) for section in SECTIONS for name in section.model_fields}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
        plain["guards"] = guards.resolved(self.guards)
        return {**plain, "objective": objectives.as_mapping(self._preset, self._objective)}

    def replace(self, **changes: Any) -> GRPOConfig:
        """The same configuration with some keys written differently."""
        return GRPOConfig(**{**self._as_written, **changes})

    def to_dict(self) -> dict[str, Any]:
        """`resolved`, under the name that the ecosystem's callbacks use."""
        return self.resolved()

    def to_sanitized_dict(self) -> dict[str, Any]:
        """`resolved` with values that every tracker takes: what is not a plain value becomes text."""
        plain = (bool, int, float, str)
        return {name: v if isinstance(v, plain) else json.dumps(v) for name, v in self.resolved().items()}

    def to_json_string(self) -> str:
        """`resolved` as JSON text."""
        return json.dumps(self.resolved(), indent=2)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GRPOConfig) and self.resolved() == other.resolved()

    __hash__ = None  # type: ignore[assignment]  # it holds dicts

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise ConfigError(f"a configuration is read-only; use config.replace({name}={value!r}).")
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # a misspelt field stays an error for the type checker

        def __getattr__(self, name: str) -> Any:
            if name in FOREIGN or name in objectives.KEYS or name in ONE_PROCESS:
                return read_foreign(self, name)
            return super().__getattr__(name)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")
