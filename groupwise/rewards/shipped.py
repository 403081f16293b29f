"""The rewards that come with groupwise, by the name a recipe calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from groupwise.errors import ConfigError, did_you_mean
from groupwise.rewards.exact_match import ExactMatch
from groupwise.rewards.format import Format
from groupwise.rewards.length import Length

SHIPPED: Mapping[str, type[Any]] = {"length": Length, "format": Format, "exact_match": ExactMatch}


def build_shipped(name: str, parameters: Mapping[str, Any]) -> Callable[..., list[float | None]]:
    """The shipped reward `name` with these parameters; one that it does not have is an error."""
    known = [field.name for field in fields(SHIPPED[name])]
    for parameter in parameters:
        if parameter not in known:
            raise ConfigError(
                f'Reward {name} has no parameter "{parameter}"; it has {", ".join(known)}, and weight.'
                f"{did_you_mean(str(parameter), [*known, 'weight'])}"
            )
    reward: Callable[..., list[float | None]] = SHIPPED[name](**parameters)
    return reward
