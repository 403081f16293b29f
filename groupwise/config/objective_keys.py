"""Keys about the loss, resolved into one `groupwise.algo.Objective`.

Three ways of writing it mix: the name of a published algorithm (`objective: dapo`), a mapping of axes
(`objective: {preset: dapo, epsilon_high: 0.3}`), and single keys, either axes (`aggregation: token_mean`) or the
ecosystem's words (`loss_type: dapo`). A single key wins over the mapping, and the mapping over its preset.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from groupwise.algo.axes import OPTIONAL, Mismatch
from groupwise.algo.objective import Objective, preset_name
from groupwise.config.compat.loss_aliases import TOPICS, WORDS
from groupwise.config.mistakes import Mistakes
from groupwise.errors import ConfigError

AXES = tuple(field.name for field in dataclasses.fields(Objective))
"""Fields of `Objective`: every one is a key of the configuration too."""

KEYS = frozenset({"objective", *AXES, *WORDS})
"""Every key of the configuration that is about the objective."""

_REGIONS = {
    "epsilon_low": ("clip", "geo_clip", "luffy"),
    "epsilon_high": ("clip", "geo_clip", "luffy"),
    "delta": ("clip", "luffy"),
    "weight_min": ("weight_clip",),
    "weight_max": ("weight_clip",),
    "tau_pos": ("sapo",),
    "tau_neg": ("sapo",),
    "gamma_pos": ("gamma",),
    "gamma_neg": ("gamma",),
    "divergence": ("div_mask",),
    "divergence_low": ("div_mask",),
    "divergence_high": ("div_mask",),
    "weight_cap": ("div_mask",),
    "band_low": ("band_mask",),
    "band_high": ("band_mask",),
    "threshold": ("abs_mask", "m2_mask"),
    "shaping": ("luffy",),
    "tau": ("squared", "dro"),
}
"""Number -> the trust regions that read it."""

_STD = {
    "scale": ("group_std", "batch_std", "batch_std_centred", "token_whiten"),
    "combine": ("normalise_each",),
}
_MISMATCH = {"mismatch": tuple(name for name in get_args(Mismatch) if name != "none")}

READ_BY: dict[str, dict[str, tuple[str, ...]]] = {
    **{number: {"trust_region": regions} for number, regions in _REGIONS.items()},
    "ddof": _STD,
    "eps": _STD,
    "pass_k": {"baseline": ("passk",), "scale": ("passk_std",)},
    "ema_decay": {"baseline": ("ema",)},
    "max_length": {"aggregation": ("constant",)},
    "mismatch_min": _MISMATCH,
    "mismatch_max": _MISMATCH,
    "covariance_fraction": {"covariance": ("clip_cov", "kl_cov")},
    "covariance_coef": {"covariance": ("kl_cov",)},
    "covariance_low": {"covariance": ("clip_cov",)},
    "covariance_high": {"covariance": ("clip_cov",)},
}
"""Number -> the axes that read it, with the choices that do; under any other choice it has no effect."""

READ = frozenset(AXES) - {
    number
    for number, readers in READ_BY.items()
    if not any(getattr(Objective(), axis) in choices for axis, choices in readers.items())
}
"""Axes that have an effect while nothing else about the objective is set."""


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """What was written about the objective: the algorithm it starts from, and every other key."""

    preset: str
    keys: dict[str, Any]


def flatten(written: Mapping[str, Any], problems: Mistakes, default: str = "grpo") -> Written:
    """One preset and one flat mapping from a name, a mapping of axes, or an `Objective`, and single keys.

    `default` is the preset where none is written.
    """
    chosen = written.get("objective") or default
    single = {key: value for key, value in written.items() if key != "objective"}
    if isinstance(chosen, Objective):
        chosen = {"preset": _nearest_preset(chosen), **dataclasses.asdict(chosen)}
    if isinstance(chosen, str):
        chosen = {"preset": chosen}
    if not isinstance(chosen, Mapping):
        problems.add(
            f"objective is {chosen!r}; expected the name of an algorithm or a mapping of its axes "
            "such as {preset: dapo, epsilon_high: 0.28}."
        )
        chosen = {}
    known = ("preset", *sorted(KEYS - {"objective"}))
    for key in chosen:
        if key not in known:
            problems.add_unknown(f"objective.{key}", [f"objective.{name}" for name in known])
    inner = {key: value for key, value in chosen.items() if key in known and key != "preset"}
    return Written(_preset(chosen.get("preset", default), problems), {**inner, **single})


def resolve(
    written: Written, max_completion_length: Any, problems: Mistakes
) -> tuple[Objective | None, tuple[str, ...]]:
    """The objective, or None with the reasons in `problems`; and notes."""
    base = Objective.preset(written.preset)
    axes = _with_length(_axes(written.keys, base, problems), base, max_completion_length)
    axes, notes = _with_cap(axes, written.keys, base)
    try:
        objective = Objective.preset(written.preset, **axes)
    except ConfigError as error:
        problems.add(str(error))
        return None, notes
    beside = (axis for axis in axes if getattr(base, axis) != axes[axis])
    return objective, (*notes, *filter(None, (_why_unread(axis, objective) for axis in beside)))


def _why_unread(number: str, objective: Objective) -> str | None:
    """That a number has no effect under the objective, and why; None where something reads it."""
    readers = READ_BY.get(number, {})
    if not readers or any(getattr(objective, axis) in choices for axis, choices in readers.items()):
        return None
    axis = next(iter(readers))
    meant = " Completions are cut at max_completion_length." if number == "max_length" else ""
    return f"{number} has no effect: {axis} {_shown(getattr(objective, axis))} does not read it.{meant}"


def _shown(choice: str | None) -> str:
    return "null" if choice is None else choice


def as_mapping(preset: str, objective: Objective) -> dict[str, Any]:
    """The objective with every axis explicit, ready for JSON; `resolve` turns it back into the same objective."""
    axes = dataclasses.asdict(objective)
    return {"preset": preset, **{axis: list(v) if isinstance(v, tuple) else v for axis, v in axes.items()}}


def describe(preset: str, objective: Objective) -> str:
    """The algorithm by name, and every axis in which this one differs from it."""
    base = Objective.preset(preset)
    changed = [axis for axis in AXES if getattr(objective, axis) != getattr(base, axis)]
    differences = ", ".join(f"{axis} {getattr(objective, axis)}" for axis in changed)
    return f"objective {preset}" + (f" with {differences}" if changed else "")


def _preset(name: Any, problems: Mistakes) -> str:
    try:
        return preset_name(name)
    except ConfigError as error:
        problems.add(str(error))
        return "grpo"


def _nearest_preset(objective: Objective) -> str:
    """The algorithm that an objective is, or else the one that has no name of its own to mislead: grpo."""
    return next((name for name in Objective.preset_names() if Objective.preset(name) == objective), "grpo")


def _axes(keys: Mapping[str, Any], base: Objective, problems: Mistakes) -> dict[str, Any]:
    """Axes from both vocabularies. One axis set to two values is a contradiction."""
    words = {key: value for key, value in keys.items() if key in WORDS and value is not None}
    axes = {key: _tidy(key, value) for key, value in keys.items() if key in AXES}
    explicit = frozenset(axes)
    for topic in TOPICS:
        try:
            translated = topic(words, base)
        except ConfigError as error:
            problems.add(str(error))
            continue
        for axis, value in translated.items():
            is_default_of_epsilon = axis == "epsilon_high" and axis in explicit
            if not is_default_of_epsilon and axes.setdefault(axis, value) != value:
                problems.add(f"{axis} is {axes[axis]!r}, but other keys make it {value!r}. Keep one of them.")
    return {axis: value for axis, value in axes.items() if value is not None or axis in OPTIONAL}


def _tidy(axis: str, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if axis == "scale" and isinstance(value, bool):
        return "group_std" if value else "none"
    return value


def _with_length(axes: dict[str, Any], base: Objective, max_completion_length: Any) -> dict[str, Any]:
    """The divisor of `constant` is the longest completion, where none was set."""
    is_constant = axes.get("aggregation", base.aggregation) == "constant"
    if is_constant and axes.get("max_length", base.max_length) is None:
        return {**axes, "max_length": max_completion_length}
    return axes


def _with_cap(axes: dict[str, Any], keys: Mapping[str, Any], base: Objective) -> tuple[dict[str, Any], tuple[str, ...]]:
    """`epsilon_high` is the cap of the weight where the weight is clipped, as the ecosystem's users expect it."""
    if axes.get("trust_region", base.trust_region) != "weight_clip":
        return axes, ()
    cap = axes.get("epsilon_high")
    rest = {axis: value for axis, value in axes.items() if axis != "epsilon_high"}
    if cap is None or keys.get("epsilon_high") is None or "weight_max" in axes:
        return rest, ()
    return {**rest, "weight_max": cap}, (f"epsilon_high is the cap of the weight itself here: weight_max {cap}.",)
