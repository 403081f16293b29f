"""Rules of a reward's settings: which keys it may have, which it needs, and which go together.

The recipe's configuration checks its rewards by them before anything is loaded, `resolve.py` what a program passes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from groupwise.errors import ConfigError, did_you_mean
from groupwise.rewards.call_limits import CallLimits
from groupwise.rewards.shaping_rules import Shaping

OF_FUNCTION = ("function", "name", "isolated")
OF_MODEL = ("model", "name", "tokenizer", "batch_size")
OF_ALL = ("weight", *Shaping.names(), *CallLimits.names())
"""Settings of every reward, whatever its kind."""


def check_spec(
    spec: Mapping[str, Any], shipped: Collection[str], parameters_of: Callable[[str], Mapping[str, bool]]
) -> None:
    """Raise `ConfigError` unless the mapping is one reward: a function, a model or a shipped one, with its settings.

    `shipped`: the names of the shipped rewards. `parameters_of`: their parameters -> whether one has no default.
    """
    Shaping.of(spec)
    CallLimits.of(spec)
    own = [key for key in spec if key not in OF_ALL]
    _check_kind(spec)
    if "function" in spec:
        _refuse_unknown(own, OF_FUNCTION, "A reward given by function")
    elif "model" in spec:
        _refuse_unknown(own, OF_MODEL, "A reward given by model")
    elif "name" in spec:
        _check_shipped(spec["name"], [key for key in own if key != "name"], shipped, parameters_of)
    else:
        raise ConfigError(
            f"The reward {dict(spec)!r} has neither name (a shipped reward: {', '.join(shipped)}) nor function nor "
            "model."
        )


def no_such_reward(name: object, shipped: Collection[str]) -> ConfigError:
    """The error for a name that no shipped reward has."""
    return ConfigError(
        f'There is no reward "{name}".{did_you_mean(str(name), shipped)} Expected a shipped name '
        f'({", ".join(shipped)}), "file.py:function", "module:function", or the Hub id or folder of a reward model.'
    )


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, the second of one spelling called `name_2`, the third `name_3`."""
    unique: list[str] = []
    for wanted in names:
        name, number = wanted, 1
        while name in unique or (number > 1 and name in names):
            number += 1
            name = f"{wanted}_{number}"
        unique.append(name)
    return unique


def _check_kind(spec: Mapping[str, Any]) -> None:
    model = spec.get("model")
    if "function" in spec and "model" in spec:
        raise ConfigError("A reward has a function and a model. Keep one of them.")
    if isinstance(model, str) and model.endswith(".py"):
        raise ConfigError(f'The reward model "{model}" is a file of Python. Write function: {model}:FUNCTION.')
    if spec.get("isolated") and "function" not in spec:
        raise ConfigError("isolated of a reward is for a function: file.py:function or module:function.")
    if "model" not in spec and ("tokenizer" in spec or "batch_size" in spec):
        raise ConfigError("tokenizer and batch_size of a reward are for a reward model.")


def _check_shipped(
    name: object, given: Sequence[str], shipped: Collection[str], parameters_of: Callable[[str], Mapping[str, bool]]
) -> None:
    if not isinstance(name, str) or name not in shipped:
        raise no_such_reward(name, shipped)
    parameters = parameters_of(name)
    _refuse_unknown(given, tuple(parameters), f"Reward {name}")
    missing = [key for key, is_needed in parameters.items() if is_needed and key not in given]
    if missing:
        raise ConfigError(f"Reward {name} needs {missing[0]}: {{name: {name}, {missing[0]}: ...}}.")


def _refuse_unknown(given: Sequence[str], known: Sequence[str], who: str) -> None:
    for key in given:
        if key not in known:
            near = did_you_mean(str(key), [*known, *OF_ALL])
            raise ConfigError(f'{who} has no setting "{key}"; it has {", ".join([*known, *OF_ALL])}.{near}')
