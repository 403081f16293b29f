"""Every key of the configuration as a field of a dataclass: its type for a command line, its default, its help."""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_origin

from groupwise.config.compat.translate import FIELDS, FOREIGN, KNOWN_KEYS
from groupwise.config.fields import SECTIONS, branches_of
from groupwise.config.help_texts import help_text
from groupwise.config.objective_keys import AXES
from groupwise.config.settings import Settings

AS_WRITTEN = "as_written"
"""The field that carries what was written through `dataclasses.replace`, which hands over every other value as read."""

_NOT_ON_COMMAND_LINES = {"dtype", "attn_implementation", "torch_dtype", "system_prompt", *(set(AXES) - set(FOREIGN))}
"""Keys that other dataclasses of a script have too (TRL's ModelConfig, its own), which no parser takes twice."""

_SHARES = ("warmup_steps", "logging_steps", "save_steps", "eval_steps")
"""Numbers of steps that may be written as 0.1 or 10.0."""

_OPTIONAL_SWITCHES = (
    *("bf16", "tf32", "disable_tqdm", "activation_checkpointing", "split_batches"),
    *("ddp_find_unused_parameters", "ddp_broadcast_buffers", "ddp_static_graph"),
)
_COUNTS = ("generation_batch_size", "steps_per_generation", "per_gpu_train_batch_size", "vllm_max_model_length")
_NUMBERS = (
    *("beta", "delta", "epsilon_high", "entropy_coef", "off_policy_mask_threshold"),
    *("vllm_importance_sampling_cap", "vllm_importance_sampling_clip_min"),
)
_MAPPINGS = ("objective", "generation_kwargs", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")

_TYPES: dict[str, Any] = {
    **dict.fromkeys(_SHARES, float | None),
    **dict.fromkeys(_OPTIONAL_SWITCHES, bool | None),
    **dict.fromkeys(_COUNTS, int | None),
    **dict.fromkeys(_NUMBERS, float | None),
    **dict.fromkeys(_MAPPINGS, dict[str, Any] | str | None),
    "report_to": list[str] | str | None,
    "label_names": list[str] | None,
    "stop": list[str] | None,
}


class Unset:
    """The default of a field that was not written. It prints as the value that is used then."""

    __slots__ = ("_config", "_name")

    def __init__(self, name: str, config: type) -> None:
        self._name, self._config = name, config

    def __repr__(self) -> str:
        return str(getattr(self._config(), self._name))

    def __copy__(self) -> Unset:
        return self

    def __deepcopy__(self, memo: Any) -> Unset:
        return self


class Switch(argparse.Action):
    """`--key`, `--key false` and `--no_key`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        key = str(option_string).lstrip("-").replace("-", "_")
        setattr(namespace, self.dest, False if key == f"no_{self.dest}" else values)


class _Metadata(Mapping[str, Any]):
    """What a parser passes on to argparse, made when it is read."""

    def __init__(self, name: str, kind: Any, unset: Unset) -> None:
        self._name, self._unset = name, unset
        is_switch = kind in (bool, bool | None) and not name.startswith("no_")
        self._keys = ("help", "default", "aliases", "action") if is_switch else ("help", "default")

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        if key == "help":
            return argparse.SUPPRESS if self._name == AS_WRITTEN else help_text(self._name).replace("%", "%%")
        if key == "default":  # transformers' parser forgets that of a list
            return self._unset
        options = (f"--no_{self._name}", f"--no-{self._name.replace('_', '-')}")
        return list(dict.fromkeys(options)) if key == "aliases" else Switch


def shown_in(config: type, field: dataclasses.Field[Any]) -> dataclasses.Field[Any]:
    """The field as a subclass has it: not written, it shows the default of the subclass."""
    if isinstance(field.default, Unset):
        field = copy.copy(field)
        field.default = Unset(field.name, config)
    return field


def declared(names: Iterable[str], config: type) -> dict[str, tuple[Any, Any]]:
    """Key -> its type and its `dataclasses.field`, for a configuration class."""
    return {name: (kind := type_of(name), _field(name, kind, config)) for name in names}


def _field(name: str, kind: Any, config: type) -> Any:
    is_carrier, unset = name == AS_WRITTEN, Unset(name, config)
    return dataclasses.field(
        default=unset,
        init=name not in _NOT_ON_COMMAND_LINES,
        repr=not is_carrier,
        compare=not is_carrier,
        metadata=_Metadata(name, kind, unset),
    )


def every_key() -> list[str]:
    """The keys in the order in which they are declared; the first is `output_dir`, which may stand without its name."""
    fields = [name for section in SECTIONS for name in section.model_fields]
    return [*dict.fromkeys([*fields, *KNOWN_KEYS]), AS_WRITTEN]


def type_of(name: str) -> Any:
    """The type of a key for a parser of command lines: words are `str`, so that our own errors answer for them."""
    if name in _TYPES:
        return _TYPES[name]
    if name in FIELDS:
        return _plain(Settings.model_fields[name].annotation)
    return _plain(type(FOREIGN[name].default) if name in FOREIGN else str)


def _plain(annotation: Any) -> Any:
    kind = branches_of(annotation)[0]
    if kind is bool:
        return bool
    if get_origin(kind) is dict or kind is dict:
        return dict[str, Any] | str | None
    return kind | None if kind in (int, float) or get_origin(kind) is list else str | None
