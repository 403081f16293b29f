"""`GRPOConfig`: what a user writes about a run, as a dataclass that parsers, scripts and subclasses can work with.

It may be changed until a trainer has it; a run works on `settings`, the immutable value that it stands for.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from groupwise.config.compat import attributes, beside_trl
from groupwise.config.compat.foreign_getters import read
from groupwise.config.compat.translate import COMMON_KEYS, ELSEWHERE, KNOWN_KEYS
from groupwise.config.keys import AS_WRITTEN, Unset, declared, every_key, shown_in
from groupwise.config.make_settings import make_settings
from groupwise.config.mistakes import Mistakes
from groupwise.config.settings import Settings
from groupwise.errors import ConfigError

_MAPPINGS = ("model_init_kwargs", "chat_template_kwargs", "lr_scheduler_kwargs")
"""Keys whose value a script may change in place."""


class _Checked(type):
    """Checks a configuration as a whole when it is complete: after its `__init__`, a subclass' own included."""

    def __call__(cls, *args: Any, **written: Any) -> Any:
        config = cls.__new__(cls)  # type: ignore[call-overload]
        config._begin()
        taken = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
        takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
        beside = {} if takes_all else {name: written.pop(name) for name in [*written] if name not in taken}
        config.__init__(*args, **written)
        config._write_all(beside)
        config._complete()
        return config


class GRPOConfig(metaclass=_Checked):
    """Settings of a GRPO run. Nothing set is DeepSeekMath's GRPO.

    Keyword arguments are the fields (docs/config.md), the axes of the objective, and the ecosystem's names for both
    (docs/from-trl.md). Attributes may be assigned until a trainer takes the configuration and checks it again; then
    `replace` makes a changed one. What was not written reads as what is used; the learning rate, as without an
    adapter. Lengths are tokens, steps are rollouts.

    Raises:
        ConfigError: everything that is wrong, at once, a sentence each.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    _written: dict[str, Any]
    """The keys as they were written; None is kept, and means the default."""
    _settings: Settings
    """The last settings that were valid."""
    _is_stale: bool
    _is_complete: bool
    _is_frozen: bool
    _is_of_settings: bool
    """Whether nobody wrote it in Python: it is a recipe's."""

    def __init__(self, output_dir: str | os.PathLike[str] | None = None, /, **written: Any) -> None:
        if output_dir is not None:
            written = {"output_dir": output_dir, **written}
        self._write_all(written)

    def __init_subclass__(cls, **options: Any) -> None:
        """Show the defaults of the subclass where a parser shows those of its fields."""
        super().__init_subclass__(**options)
        cls.__dataclass_fields__ = {name: shown_in(cls, field) for name, field in cls.__dataclass_fields__.items()}

    def __post_init__(self) -> None:
        """Nothing: the check comes after it. Subclasses that are dataclasses may call it."""

    @classmethod
    def of(cls, settings: Settings) -> GRPOConfig:
        """The configuration that stands for these settings."""
        config = cls.__new__(cls)
        config._begin()
        config._written = dict(settings.as_written)
        config._settings, config._is_stale, config._is_complete = settings, False, True
        config._is_of_settings = True
        return config

    @property
    def settings(self) -> Settings:
        """What a run works on.

        Raises:
            ConfigError: every mistake in what was written and assigned.
        """
        if self._is_stale:
            self._settings = make_settings(self._written, type(self).__name__)
            self._is_stale = False
        return self._settings

    def checked(self) -> Settings:
        """`settings`, with what a script has changed inside of a mapping.

        Raises:
            ConfigError: every mistake in what was written and assigned.
        """
        self._is_stale = self._is_stale or not self._is_frozen
        return self.settings

    def freeze(self) -> None:
        """Allow no further assignment: a trainer works on `settings` now."""
        self._is_frozen = True

    def replace(self, **changes: Any) -> Any:
        """The same configuration, own fields of a subclass included, with some keys written differently."""
        config = copy.copy(self)
        config._written = dict(self._written)
        config._write_all(changes)
        config._complete()
        return config

    def describe(self, *, has_adapter: bool = False) -> list[str]:
        """The batch, the objective and every note, in plain words; a script in TRL's words learns what differs.

        `has_adapter`: whether an adapter is trained, which has a learning rate of its own where none is set.
        """
        beside = [] if self._is_of_settings else beside_trl.differences(self.settings, has_adapter=has_adapter)
        return [*self.settings.describe(), *beside]

    def resolved(self) -> dict[str, Any]:
        """Every key of the settings with its value (`Settings.resolved`)."""
        return self.settings.resolved()

    def to_dict(self) -> dict[str, Any]:
        """`resolved` and the own fields of a subclass, under the name that the ecosystem's callbacks use."""
        return {**self.settings.resolved(), **self._own()}

    def to_sanitized_dict(self) -> dict[str, Any]:
        """`to_dict` with values that every tracker takes: what is not a plain value becomes text."""
        plain = (bool, int, float, str)
        return {n: v if isinstance(v, plain) else json.dumps(v, default=str) for n, v in self.to_dict().items()}

    def to_json_string(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, default=str)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GRPOConfig):
            return self.settings == other.settings and self._own() == other._own()
        return self.settings == other if isinstance(other, Settings) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it can change

    def __repr__(self) -> str:
        written = {**self._written, **self._own()}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in written.items())})"

    def __getattribute__(self, name: str) -> Any:
        return self._read(name) if name in KNOWN_KEYS else object.__getattribute__(self, name)

    def __getattr__(self, name: str) -> Any:
        if name in attributes.NAMES:
            return attributes.read_attribute(self, name)
        if not name.startswith("_") and isinstance(getattr(Settings, name, None), property):
            return getattr(self.settings, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or name in _own_names(type(self)) or name in self.__dict__:
            object.__setattr__(self, name, value)
        elif name in KNOWN_KEYS or name == AS_WRITTEN:
            self._write(name, value)
        elif not self._is_complete:  # in the `__init__` of a subclass
            object.__setattr__(self, name, value)
        else:
            problems = Mistakes(type(self).__name__)
            problems.add_unknown(name, list(KNOWN_KEYS), common=COMMON_KEYS, elsewhere=ELSEWHERE)
            problems.raise_if_any()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_is_frozen": False}  # a copy belongs to no trainer

    def _begin(self) -> None:
        self._written, self._is_frozen, self._is_complete = {}, False, False
        self._settings, self._is_stale, self._is_of_settings = _NOTHING_WRITTEN, True, False
        for name, value in _class_defaults(type(self)):
            setattr(self, name, value)

    def _complete(self) -> None:
        if AS_WRITTEN in self._written:
            self._written = _changes_alone(type(self), self._written)
        self._is_stale = self._is_complete = True
        _ = self.settings

    def _write_all(self, written: Mapping[str, Any]) -> None:
        for name, value in written.items():
            if name in _own_names(type(self)):
                object.__setattr__(self, name, value)
            else:  # an unknown name is a mistake of the whole
                self._write(name, value)

    def _write(self, name: str, value: Any) -> None:
        if self._is_frozen:
            raise ConfigError(
                f"{name} cannot be assigned: a trainer has this configuration already. Make a changed one before the "
                f"trainer is made: args = args.replace({name}={value!r})."
            )
        if isinstance(value, Unset):
            return
        self._written[name], self._is_stale = value, True

    def _read(self, name: str) -> Any:
        """The value that is used; while assigned values do not fit together, the one that was written."""
        if name in _MAPPINGS and not self._is_frozen:
            if self._written.get(name) is None:
                self._written[name] = {}
            if isinstance(self._written[name], dict):
                return self._written[name]
        try:
            return read(self.settings, name)
        except ConfigError:
            return self._written[name] if name in self._written else read(self._settings, name)

    def _own(self) -> dict[str, Any]:
        """The fields that a subclass adds, with their values."""
        names = dict.fromkeys([*_own_names(type(self)), *(n for n in self.__dict__ if not n.startswith("_"))])
        return {name: getattr(self, name) for name in names if hasattr(self, name)}


def _bodies(config: type) -> Iterator[dict[str, Any]]:
    """What the classes between `GRPOConfig` and this one define, the base first."""
    lineage = config.__mro__[: config.__mro__.index(GRPOConfig)]
    return (dict(vars(cls)) for cls in reversed(lineage))


def _own_names(config: type) -> dict[str, None]:
    """The names that a subclass declares and that are no keys."""
    if config is GRPOConfig:
        return {}
    names = [n for body in _bodies(config) for n in (*body.get("__annotations__", {}), *body) if n[0] != "_"]
    kept = (name for name in names if name not in KNOWN_KEYS and not _is_member(getattr(config, name, None)))
    return dict.fromkeys(kept)


def _is_member(value: Any) -> bool:
    """Whether an attribute of a class is a method or a property, and no value."""
    return callable(value) or hasattr(value, "__get__")


def _class_defaults(config: type) -> Iterator[tuple[str, Any]]:
    """Defaults that a subclass gives to keys, and the ones of its own that a dataclass would make anew each time."""
    for body in _bodies(config):
        for name, value in body.items():
            if isinstance(value, dataclasses.Field):
                if value.default_factory is not dataclasses.MISSING:
                    yield name, value.default_factory()
                elif value.default is not dataclasses.MISSING:
                    yield name, value.default
            elif name in KNOWN_KEYS and not _is_member(value):
                yield name, value


def _changes_alone(config: type[GRPOConfig], written: dict[str, Any]) -> dict[str, Any]:
    """What `dataclasses.replace` changes, without the values that it only read from the other configuration."""
    before = dict(written[AS_WRITTEN])
    other = object.__new__(config)
    other._written, other._is_frozen, other._settings = before, True, make_settings(before)
    other._is_stale, other._is_complete = False, True
    rest = {name: value for name, value in written.items() if name != AS_WRITTEN}
    changed = {name: value for name, value in rest.items() if not _is_equal(value, getattr(other, name, None))}
    return {**before, **changed}


def _is_equal(value: Any, read: Any) -> bool:
    """Whether a value is the one that was read, or what `dataclasses.asdict` makes of it."""
    if dataclasses.is_dataclass(read) and not isinstance(read, type):
        return bool(value == read or value == dataclasses.asdict(read))
    return bool(value == read)


def _declare_keys(config: type) -> None:
    """Make a dataclass of the class, with a field for every key."""
    fields = declared(every_key(), config)
    config.__annotations__ = {name: kind for name, (kind, _) in fields.items()}
    for name, (_, field) in fields.items():
        setattr(config, name, field)
    dataclasses.dataclass(init=False, repr=False, eq=False)(config)
    delattr(config, AS_WRITTEN)  # it is read from the settings


_NOTHING_WRITTEN = make_settings({})
_declare_keys(GRPOConfig)
