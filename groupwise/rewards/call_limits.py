"""Limits of the calls of a reward function: seconds, and what happens when a call fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from groupwise.errors import ConfigError, did_you_mean

OnFailure = Literal["stop", "none"]

TIMEOUT_S = 600.0


@dataclass(frozen=True)
class CallLimits:
    """The limits of one function's calls."""

    timeout_s: float = TIMEOUT_S
    """Seconds for one call with all its completions; 0 sets no limit."""
    on_failure: OnFailure = "stop"
    """stop: a call that raises or takes too long ends the run. none: its completions are unscored, with a warning."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The keys of a reward in a recipe that set them."""
        return tuple(each.name for each in fields(cls))

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> CallLimits:
        """The limits that a reward's mapping sets; its other keys are left alone."""
        return cls(**{key: spec[key] for key in cls.names() if key in spec})

    def __post_init__(self) -> None:
        seconds = self.timeout_s
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not math.isfinite(seconds) or seconds < 0:
            raise ConfigError(
                f"timeout_s of a reward is {seconds!r}; give seconds, 0 for no limit (for one call with all its "
                "completions)."
            )
        if self.on_failure not in get_args(OnFailure):
            known = get_args(OnFailure)
            near = did_you_mean(str(self.on_failure), known)
            raise ConfigError(f"on_failure of a reward is {self.on_failure!r}; known: {', '.join(known)}.{near}")
