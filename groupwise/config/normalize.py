"""Values as people write them, brought to the one form that a field takes. A value beyond help is a `ConfigError`."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from enum import Enum
from typing import Any

from groupwise.config import guards
from groupwise.config.compat.hints import TRACKERS as ELSEWHERE
from groupwise.config.names import OPTIMIZERS, SCHEDULERS, TRACKERS
from groupwise.errors import ConfigError, can_name_file, did_you_mean, shortened

_DTYPES = {"bfloat16": "bfloat16", "bf16": "bfloat16", "float32": "float32", "fp32": "float32", "auto": "auto"}
_FOLLOWING_A_METRIC = ("reduce_lr_on_plateau", "greedy")


def tidy(field: str, value: Any) -> Any:
    """The value as the field wants it, whatever the field."""
    if isinstance(value, Enum):
        value = value.value
    return _TIDIERS[field](value) if field in _TIDIERS else value


def _folder(value: Any) -> Any:
    """A path as text, `~` being the home folder."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path:
        return path
    if not can_name_file(path):
        raise ConfigError(f"output_dir is {shortened(repr(path), 60)}; no folder can be called so.")
    return os.path.expanduser(path)


def _trackers(value: Any) -> Any:
    if not isinstance(value, str | list | tuple):
        return value
    names = [value] if isinstance(value, str) else list(value)
    if names in (["none"], []):
        return []
    if names == ["all"]:
        specs = {name: importlib.util.find_spec(name) for name in TRACKERS}
        return [name for name, spec in specs.items() if spec is not None and spec.origin]  # a mere folder has none
    for name in names:
        if callback := ELSEWHERE.get(str(name)):
            raise ConfigError(
                f'report_to names "{name}", which is a callback: from transformers.integrations import {callback}; '
                f"GRPOTrainer(callbacks=[{callback}()])."
            )
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            near = did_you_mean(str(name), TRACKERS)
            raise ConfigError(f'report_to names "{name}"; expected {known}, "all" or "none".{near}')
    return names


def _optimizer(value: Any) -> Any:
    spelling = str(value).lower().replace("-", "_")
    names = {each: name for name, spellings in OPTIMIZERS.items() for each in spellings}
    if spelling in names:
        return names[spelling]
    near = did_you_mean(spelling, names, spellings=names)
    raise ConfigError(
        f'optim is "{value}"; expected one of {", ".join(OPTIMIZERS)}.{near} '
        "Any other optimizer can be passed as an object: GRPOTrainer(optimizers=(optimizer, scheduler))."
    )


def _scheduler(value: Any) -> Any:
    name = str(value).lower()
    if name in SCHEDULERS:
        return name
    if name in _FOLLOWING_A_METRIC:
        raise ConfigError(f'lr_scheduler_type "{name}" follows a metric of evaluation; use "cosine" or "linear".')
    raise ConfigError(
        f'lr_scheduler_type is "{value}"; expected one of {", ".join(SCHEDULERS)}.{did_you_mean(name, SCHEDULERS)}'
    )


def _dtype(value: Any) -> Any:
    name = str(value).removeprefix("torch.").lower()
    if name in {"float16", "fp16", "half"}:
        raise ConfigError("dtype is float16, which is slow on CPUs and needs loss scaling; use bfloat16.")
    if name not in _DTYPES:
        near = did_you_mean(name, _DTYPES, spellings=_DTYPES)
        raise ConfigError(f"dtype is {value!r}; expected auto, bfloat16 or float32.{near}")
    return _DTYPES[name]


def _strategy(field: str) -> Callable[[Any], Any]:
    def normalised(value: Any) -> Any:
        if value == "best":
            raise ConfigError(f'{field} "best" follows a metric; use "steps" and choose a checkpoint later.')
        return "no" if value is False else value

    return normalised


def whole(value: Any) -> Any:
    """`8.0` and `"8"` as 8; anything else as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def _interval(field: str) -> Callable[[Any], Any]:
    def steps(value: Any) -> Any:
        if isinstance(value, float) and 0 < value < 1:
            raise ConfigError(f"{field} is {value}, a share of the run; write a number of steps.")
        return whole(value)

    return steps


def _addresses(value: Any) -> Any:
    """The addresses in a text, a range of ports written out, those of `@FILE` read from it."""
    texts = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return value
    found = []
    for text in texts:
        if text.startswith("@"):
            found += _addresses(_lines_of(text[1:]))
        elif ports := re.fullmatch(r"(.+:)(\d+)-(\d+)/?", text):
            found += [f"{ports[1]}{port}" for port in range(int(ports[2]), int(ports[3]) + 1)]
        elif text:
            found.append(text.rstrip("/"))
    return found


def _lines_of(path: str) -> str:
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"servers is @{path}, and the file cannot be read: {error}.") from None


_COUNTS = ("prompts_per_step", "num_generations", "num_minibatches", "num_iterations", "max_completion_length")
_COUNTED_IN_STEPS = ("max_steps", "ref_model_sync_steps", "ref_model_reset_steps", "warmup_steps")

_TIDIERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys((*_COUNTS, *_COUNTED_IN_STEPS), whole),
    "guards": guards.complete,
    "output_dir": _folder,
    "servers": _addresses,
    "report_to": _trackers,
    "optim": _optimizer,
    "lr_scheduler_type": _scheduler,
    "dtype": _dtype,
    "save_strategy": _strategy("save_strategy"),
    "eval_strategy": _strategy("eval_strategy"),
    "logging_steps": _interval("logging_steps"),
    "save_steps": _interval("save_steps"),
    "eval_steps": _interval("eval_steps"),
    "stop": lambda value: (value,) if isinstance(value, str) else value,
    "top_k": lambda value: 0 if value == -1 else value,
}
