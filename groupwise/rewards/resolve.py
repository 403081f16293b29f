"""Builds reward functions from objects, files, modules, shipped names and reward models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groupwise.chat import as_tokenizer
from groupwise.errors import ConfigError, can_name_file, shortened
from groupwise.rewards.call_limits import CallLimits
from groupwise.rewards.function import RewardFunction, with_unique_names
from groupwise.rewards.import_function import is_function_name, load_function
from groupwise.rewards.shaping_rules import Shaping
from groupwise.rewards.shipped import SHIPPED, shipped_parameters
from groupwise.rewards.spec_rules import OF_ALL, check_spec, no_such_reward

RewardSpec = str | Mapping[str, Any] | Callable[..., Any] | RewardFunction
"""A module of torch is a callable, too."""


@dataclass(frozen=True)
class _Context:
    """The folder, tokenizer and device that a spec is resolved with."""

    folder: Path
    tokenizer: Any
    device: Any


def resolve_rewards(
    specs: RewardSpec | Sequence[RewardSpec],
    *,
    weights: Sequence[float] | None = None,
    processing_classes: Any = None,
    device: Any = None,
    folder: str | Path | None = None,
) -> list[RewardFunction]:
    """Reward functions with unique names, from what a recipe or a user gave.

    A spec is a callable, an `nn.Module` or a string: `file.py:function` (relative to `folder`, by default the current
    one), `module:function`, a shipped name, a Hub id or folder of a reward model. Or a mapping: `name` with the
    parameters of a shipped reward, `function`, or `model` (with `tokenizer`, `batch_size`); each with a `weight` and
    the fields of `Shaping` and `CallLimits`. A function named by its file or module may be `isolated`.

    `weights`: one a spec, instead of those in the mappings. `processing_classes`: the tokenizers of the reward models,
    one a spec (None elsewhere). `device`: where reward models given by name are loaded.

    Raises:
        ConfigError: a spec that names no reward, a setting that the reward does not have, weights that do not fit.
    """
    listed = list(specs) if isinstance(specs, Sequence) and not isinstance(specs, str) else [specs]
    tokenizers = _one_each(processing_classes, len(listed))
    base = Path(folder) if folder is not None else Path.cwd()
    functions = [
        _resolve(spec, _Context(base, tokenizer, device)) for spec, tokenizer in zip(listed, tokenizers, strict=True)
    ]
    functions = with_unique_names(_with_weights(functions, listed, weights))
    for function in functions:
        function.shaping.check(function.name, [each.name for each in functions])
    return functions


def _resolve(spec: Any, context: _Context) -> RewardFunction:
    if isinstance(spec, RewardFunction):
        return spec
    if isinstance(spec, Mapping):
        return _from_mapping(spec, context)
    if isinstance(spec, str):
        return _from_string(spec, context)
    if _is_module(spec):
        return _reward_model(spec, context)
    if callable(spec) and not isinstance(spec, type):
        return RewardFunction.of(spec)
    raise ConfigError(f"A reward was given as {spec!r}; give a function, the name of a reward, or a mapping.")


def _from_string(spec: str, context: _Context) -> RewardFunction:
    if not can_name_file(spec):
        raise no_such_reward(shortened(spec), SHIPPED)
    if is_function_name(spec):
        return RewardFunction.of(load_function(spec, context.folder))
    if spec in SHIPPED:
        return _from_mapping({"name": spec}, context)
    if "/" in spec or _is_folder(spec, context.folder):
        return _reward_model(spec, context)
    raise no_such_reward(spec, SHIPPED)


def _from_mapping(spec: Mapping[str, Any], context: _Context) -> RewardFunction:
    _check_names(spec)
    check_spec(spec, SHIPPED, shipped_parameters)
    own = {key: value for key, value in spec.items() if key not in OF_ALL}
    limits = CallLimits.of(spec)
    if "function" in own:
        given, is_isolated = own["function"], own.get("isolated", False)
        function = _isolated(given, context, limits) if is_isolated else _resolve(given, context)
        function = replace(function, name=own.get("name", function.name))
    elif "model" in own:
        function = _reward_model(own.pop("model"), context, **own)
    else:
        function = RewardFunction.of(SHIPPED[own.pop("name")](**own))
    function = replace(function, limits=limits, shaping=Shaping.of(spec))
    return replace(function, weight=spec["weight"]) if "weight" in spec else function


def _check_names(spec: Mapping[str, Any]) -> None:
    for key in ("name", "tokenizer", "model"):  # the last two may be objects
        if spec.get(key) is not None and _is_plain_data(spec[key]):
            raise ConfigError(f"{key} of a reward is {shortened(repr(spec[key]))}; give its name as a text.")


def _isolated(spec: Any, context: _Context, limits: CallLimits) -> RewardFunction:
    """A function in a process of its own, which has to find it by its name."""
    from groupwise.rewards.isolated import Isolated

    if not isinstance(spec, str) or not is_function_name(spec):
        raise ConfigError(
            f'isolated: true is for a reward given as "file.py:function" or "module:function", which a process of '
            f"its own can import; this one is {spec!r}."
        )
    return RewardFunction.of(Isolated(spec, context.folder, limits.timeout_s))


def _reward_model(
    model: Any, context: _Context, *, name: str | None = None, tokenizer: Any = None, batch_size: int = 16
) -> RewardFunction:
    from groupwise.rewards.model import RewardModel

    if isinstance(model, str) and _is_folder(model, context.folder):
        model = str(context.folder / Path(model).expanduser())
    reward = RewardModel(model, tokenizer or context.tokenizer, device=context.device, batch_size=batch_size)
    return RewardFunction(name or reward.name, reward, load=reward.load)


def _with_weights(
    functions: list[RewardFunction], specs: Sequence[Any], weights: Sequence[float] | None
) -> list[RewardFunction]:
    if weights is None:
        return functions
    if len(weights) != len(functions):
        raise ConfigError(
            f"reward_weights has {len(weights)} numbers for {len(functions)} reward functions "
            f"({', '.join(function.name for function in functions)}); give one for each."
        )
    if any(isinstance(spec, Mapping) and "weight" in spec for spec in specs):
        raise ConfigError("Weights are given twice: in reward_weights and as weight of a reward. Keep one of them.")
    return [replace(function, weight=weight) for function, weight in zip(functions, weights, strict=True)]


def _one_each(processing_classes: Any, count: int) -> list[Any]:
    """A tokenizer, the name of one, or None for each reward."""
    if processing_classes is None:
        return [None] * count
    if not isinstance(processing_classes, list | tuple):
        processing_classes = [processing_classes]
    if len(processing_classes) != count:
        raise ConfigError(
            f"reward_processing_classes has {len(processing_classes)} entries for {count} reward functions; give "
            "one for each, None for those that are not models."
        )
    return list(map(_tokenizer, processing_classes))


def _tokenizer(given: Any) -> Any:
    is_name = given is None or (isinstance(given, str) and given)
    return given if is_name else as_tokenizer(given, "reward_processing_classes")


def _is_module(spec: object) -> bool:
    """Whether this is a torch module; known from its classes, so that torch is not imported to find out."""
    return any(base.__name__ == "Module" and base.__module__.startswith("torch.nn.") for base in type(spec).__mro__)


def _is_plain_data(value: object) -> bool:
    """Whether a recipe could hold this and it is no name."""
    return isinstance(value, bool | int | float | list | tuple | dict | bytes) or value == ""


def _is_folder(spec: str, folder: Path) -> bool:
    return (folder / Path(spec).expanduser()).is_dir()
