"""The task of a recipe: a name with parameters, as text or as a mapping."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from groupwise.config.names import GYM, TASKS
from groupwise.config.specs import Spec
from groupwise.errors import ConfigError, did_you_mean


class TaskSpec(Spec):
    """Task"""

    name: str
    """One of the tasks that ship with groupwise, or `reasoning-gym:` and the name of one of its tasks."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the task; they may stand beside `name` as well."""

    @classmethod
    def in_full(cls, written: Any) -> Any:
        """The mapping that a short form stands for: `countdown?max_number=20`, or parameters beside the name."""
        if isinstance(written, str):
            name, _, query = written.partition("?")
            pairs = [pair.partition("=") for pair in query.split("&") if pair]  # a plus sign stays a plus sign
            return {"name": name, "params": {key: _value(value) for key, _, value in pairs}}
        own = (written.get("params") or {}) if isinstance(written, Mapping) else None
        if not isinstance(own, Mapping):
            return written
        beside = {key: value for key, value in written.items() if key not in cls.model_fields}
        given = written.get("name")
        short: dict[str, Any] = cls.in_full(given) if isinstance(given, str) else {"name": given, "params": {}}
        return {"name": short["name"], "params": {**short["params"], **beside, **own}}

    @classmethod
    def of(cls, written: str | Mapping[str, Any]) -> TaskSpec:
        """The task that is written, checked.

        Raises:
            ConfigError: no such task, or a parameter that it does not have.
        """
        try:
            return cls(**cls.in_full(written))
        except ValidationError as error:
            sentences = [str(each.get("ctx", {}).get("error", each["msg"])) for each in error.errors()]
            raise ConfigError(f"task {written!r}: {' '.join(sentences)}") from None

    @property
    def kind(self) -> str:
        """The name without the gym's part."""
        return self.name.partition(":")[0]

    @property
    def gym_task(self) -> str | None:
        """Which of reasoning-gym's tasks, or None."""
        return self.name.partition(":")[2] or None

    @property
    def reward(self) -> str:
        """The name that the task's own reward is recorded under."""
        return self.kind.replace("-", "_")

    @model_validator(mode="after")
    def _is_known(self) -> TaskSpec:
        if self.name.rstrip(":") == GYM:
            raise ValueError(
                f'task "{self.name}" lacks a name. Write {GYM}:NAME, such as {GYM}:chain_sum (docs/tasks.md).'
            )
        if self.kind not in TASKS or (self.gym_task is None) == (self.kind == GYM) or self.gym_task == "":
            known = ", ".join(name if name != GYM else f"{GYM}:NAME" for name in TASKS)
            raise ValueError(f'there is no task "{self.name}"; there are {known}.{did_you_mean(self.name, TASKS)}')
        known_parameters = TASKS[self.kind]
        for key in self.params:
            if key not in known_parameters and self.kind != GYM:
                near = did_you_mean(key, known_parameters)
                raise ValueError(
                    f'task {self.name} has no parameter "{key}"; it has {", ".join(known_parameters)}.{near}'
                )
        return self

    def resolved(self) -> dict[str, Any]:
        """Name and parameters, the parameters beside the name."""
        return {"name": self.name, **self.params}

    def __str__(self) -> str:
        return self.name + ("?" + "&".join(f"{k}={v}" for k, v in self.params.items()) if self.params else "")


def _value(text: str) -> Any:
    """A number, true, false, null or a list as JSON writes it; anything else is text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
