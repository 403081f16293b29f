"""The environment of a recipe: a name with arguments, as text or as a mapping."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from groupwise.config.names import ENVIRONMENTS
from groupwise.config.specs import Spec
from groupwise.errors import did_you_mean

_CLASS = re.compile(r".+\.py:\w+|[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def names_object(name: str) -> bool:
    """Whether it is `file.py:Name` or `module:Name`."""
    return _CLASS.fullmatch(name) is not None


class EnvironmentSpec(Spec):
    """Environment"""

    name: str
    """A shipped environment, or a class or function that makes one: `file.py:Class`, `module:Class`."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Weight of its reward in the sum; 0 records it alone."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the environment; they may stand beside `name` as well."""

    @classmethod
    def in_full(cls, written: Any) -> Any:
        """The mapping that a short form stands for: a name alone, or arguments beside it."""
        if isinstance(written, str):
            return {"name": written}
        if not isinstance(written, Mapping) or not isinstance(written.get("params") or {}, Mapping):
            return written
        beside = {key: value for key, value in written.items() if key not in cls.model_fields}
        rest = {key: value for key, value in written.items() if key not in beside}
        return {**rest, "params": {**beside, **(written.get("params") or {})}}

    @property
    def is_shipped(self) -> bool:
        return not names_object(self.name)

    @property
    def recorded_as(self) -> str:
        """The name of its reward, and what records and errors call it."""
        return self.name if self.is_shipped else self.name.rpartition(":")[2].rpartition(".")[2]

    @model_validator(mode="after")
    def _is_known(self) -> EnvironmentSpec:
        if not self.is_shipped:
            return self
        if self.name not in ENVIRONMENTS:
            raise ValueError(
                f'there is no environment "{self.name}"; there are {", ".join(ENVIRONMENTS)}, and classes of your own '
                f"as file.py:Class.{did_you_mean(self.name, ENVIRONMENTS)}"
            )
        known = ENVIRONMENTS[self.name]
        for key in self.params:
            if key not in known:
                near = did_you_mean(key, [*known, *type(self).model_fields])
                raise ValueError(f'environment {self.name} has no argument "{key}"; it has {", ".join(known)}.{near}')
        return self

    def resolved(self) -> dict[str, Any]:
        """Name, weight and arguments, the arguments beside the name."""
        return {"name": self.name, "weight": self.weight, **self.params}
