"""Shaping of a function's rewards before the weight: clip, normalise, gates by other functions.

They apply in this order: `clip`, `normalise`, `when` / `unless`, `times`. A gate reads the value that the other
function returned, `times` that value after clip and normalise; neither reads the other's gates, so there are no cycles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean, stdev
from typing import Any, Literal, get_args

from groupwise.errors import ConfigError, did_you_mean
from groupwise.rounding import LARGEST, differ, reaches

Normalise = Literal["range", "group", "batch"]
Values = Sequence[float | None]

EPS = 1e-4
"""Added to a standard deviation, as GRPO's advantage does."""


@dataclass(frozen=True)
class Shaping:
    """The shaping of one function's rewards; the default leaves them as they are."""

    clip: tuple[float | None, float | None] | None = None
    """Lowest and highest value that counts; None leaves an end open."""
    normalise: Normalise | None = None
    """range: (r - low) / (high - low) with the two ends of `clip`; group: (r - mean) / (std + 1e-4) over the scored
    completions of its group (ddof 1; 0 where they are equal); batch: the same over all completions of the call."""
    when: Mapping[str, float] = field(default_factory=dict)
    """Function -> the least it must have returned; below that this reward counts 0."""
    unless: Mapping[str, float] = field(default_factory=dict)
    """Function -> the value from which on this reward counts 0."""
    times: Sequence[str] = ()
    """Functions whose values are factors of this reward."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The keys of a reward in a recipe that set it."""
        return tuple(each.name for each in fields(cls))

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Shaping:
        """The shaping that a reward's mapping sets; its other keys are left alone."""
        return cls(**{key: spec[key] for key in cls.names() if key in spec})

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", (self.times,) if isinstance(self.times, str) else tuple(self.times))
        if self.clip is not None:
            object.__setattr__(self, "clip", _bounds(self.clip))
        if self.normalise not in (None, *get_args(Normalise)):
            known = get_args(Normalise)
            near = did_you_mean(str(self.normalise), known)
            raise ConfigError(f"normalise of a reward is {self.normalise!r}; known: {', '.join(known)}.{near}")
        if self.normalise == "range" and (self.clip is None or None in self.clip):
            raise ConfigError("normalise: range of a reward needs both ends of its range; add clip: [LOW, HIGH].")
        for gates in (self.when, self.unless):
            for name, threshold in gates.items():
                if not _is_finite(threshold):
                    raise ConfigError(
                        f"The gate {name!r} of a reward is {threshold!r}; give a finite number, at most {LARGEST:g} in "
                        "size."
                    )

    @property
    def others(self) -> list[str]:
        """The functions it reads."""
        return [*self.when, *self.unless, *self.times]

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that are set, as in a recipe."""
        return {name: getattr(self, name) for name in self.names() if getattr(self, name)}

    @property
    def is_plain(self) -> bool:
        """Whether it leaves the rewards as they are."""
        return self == Shaping()

    def check(self, name: str, known: Sequence[str]) -> None:
        """Raise `ConfigError` where it reads a function that is not one of `known`, or its own."""
        for other in self.others:
            if other == name:
                raise ConfigError(f'Reward "{name}" is gated by itself; name another reward: {", ".join(known)}.')
            if other not in known:
                raise ConfigError(
                    f'Reward "{name}" is gated by "{other}", and there is no such reward; there are {", ".join(known)}.'
                    f"{did_you_mean(other, known)}"
                )

    def scale(self, values: Values, group_N: Sequence[int]) -> list[float | None]:
        """The values after clip and normalise."""
        if self.clip is not None:
            low, high = (math.inf * sign if end is None else end for sign, end in zip((-1, 1), self.clip, strict=True))
            values = [None if v is None else min(max(v, low), high) for v in values]
            if self.normalise == "range":
                return [None if v is None else (v - low) / (high - low) for v in values]
        if self.normalise == "batch":
            return _standardised(values, [0] * len(values))
        if self.normalise == "group":
            return _standardised(values, group_N)
        return list(values)

    def gate(
        self, row: int, value: float | None, returned: Mapping[str, Values], scaled: Mapping[str, Values]
    ) -> float | None:
        """One scaled value after its gates: 0 where one is shut, None where a function it reads gave none."""
        if value is None:
            return None
        is_open = [_compare(returned[name][row], least, True) for name, least in self.when.items()]
        is_open += [_compare(returned[name][row], limit, False) for name, limit in self.unless.items()]
        if any(each is False for each in is_open):
            return 0.0
        factors = [scaled[name][row] for name in self.times]
        if None in is_open or None in factors:
            return None
        return math.prod((value, *(f for f in factors if f is not None)))


def shaped_values(
    shapings: Mapping[str, Shaping], returned: Mapping[str, Values], group_N: Sequence[int]
) -> dict[str, list[float | None]]:
    """Function -> its shaped values, where its shaping is not plain. `group_N`: the group of each row."""
    scaled: dict[str, Values] = {name: shapings[name].scale(values, group_N) for name, values in returned.items()}
    return {
        name: [shaping.gate(row, value, returned, scaled) for row, value in enumerate(scaled[name])]
        for name, shaping in shapings.items()
        if not shaping.is_plain
    }


def _bounds(clip: Sequence[float | None]) -> tuple[float | None, float | None]:
    ends = tuple(clip) if isinstance(clip, list | tuple) else ()
    is_right = len(ends) == 2 and all(end is None or _is_finite(end) for end in ends) and ends != (None, None)
    if not is_right or (None not in ends and ends[0] >= ends[1]):
        raise ConfigError(
            f"clip of a reward is {clip!r}; give [LOW, HIGH], the lower first, each at most {LARGEST:g} in size; null "
            "leaves an end open."
        )
    return ends[0], ends[1]


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _compare(value: float | None, threshold: float, wants_reached: bool) -> bool | None:
    return None if value is None else reaches(value, threshold) is wants_reached


def _standardised(values: Values, group_N: Sequence[int]) -> list[float | None]:
    members: dict[int, list[float]] = {}
    for group, value in zip(group_N, values, strict=True):
        if value is not None:
            members.setdefault(group, []).append(value)
    moments = {group: (fmean(scored), stdev(scored)) if differ(scored) else None for group, scored in members.items()}
    return [
        None if value is None else 0.0 if (m := moments[group]) is None else (value - m[0]) / (m[1] + EPS)
        for group, value in zip(group_N, values, strict=True)
    ]
