"""Checks of the parameters of shipped rewards, the columns they read and the packages they need."""

from __future__ import annotations

import importlib
import inspect
import keyword
import math
import re
from collections.abc import Sequence
from typing import Any

from groupwise.errors import ConfigError, did_you_mean
from groupwise.types import REWARD_KEYWORDS


def check_tag(reward: str, tag: object, name: str = "tag") -> None:
    """Raise unless it is the name of a tag."""
    if not _is_tag(tag):
        raise ConfigError(f'Reward {reward}: {name} is {tag!r}; give its name without brackets, as "answer".')


def checked_tags(reward: str, tags: str | Sequence[str]) -> tuple[str, ...]:
    """The tags as a tuple. Raise unless there is at least one, each is the name of a tag, and none occurs twice."""
    listed = (tags,) if isinstance(tags, str) else tuple(tags)
    if not listed or not all(map(_is_tag, listed)) or len(set(listed)) < len(listed):
        raise ConfigError(
            f"Reward {reward}: tags are {list(listed)!r}; give at least one name, without brackets, each one once, "
            'such as ["think", "answer"].'
        )
    return listed


def check_word(reward: str, name: str, value: object, known: Sequence[str]) -> None:
    """Raise unless the value is one of the known words."""
    if value not in known:
        near = did_you_mean(str(value), known)
        raise ConfigError(f"Reward {reward}: {name} is {value!r}; known: {', '.join(known)}.{near}")


def check_number(reward: str, name: str, value: object, least: float = -math.inf, most: float = math.inf) -> None:
    """Raise unless the value is a finite number between the two bounds, both included."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not least <= value <= most:  # type: ignore[operator]  # it is a number
        bounds = [f"{word} {end}" for word, end in (("at least", least), ("at most", most)) if math.isfinite(end)]
        raise ConfigError(
            f"Reward {reward}: {name} is {value!r}; give a number{', ' if bounds else ''}{', '.join(bounds)}."
        )


def check_count(reward: str, name: str, value: object, least: int = 1) -> None:
    """Raise unless the value is a whole number, `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"Reward {reward}: {name} is {value!r}; give a whole number, {least} or more.")


def ask_for_columns(reward: Any, name: str, columns: Sequence[str], also: Sequence[str] = ("completions",)) -> None:
    """Give a callable object a signature that requires these columns, so that a missing one is an error at once.

    They depend on its parameters; `log_why` is always accepted.
    """
    for column in columns:
        is_name = isinstance(column, str) and column.isidentifier() and not keyword.iskeyword(column)
        if not is_name or column in REWARD_KEYWORDS:
            raise ConfigError(
                f"Reward {name}: column is {column!r}; name the column that holds the answer. It must be a "
                "Python name: the data setting columns: {new: old} renames one that is not."
            )
    needed = [inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY) for each in dict.fromkeys([*also, *columns])]
    why = inspect.Parameter("log_why", inspect.Parameter.KEYWORD_ONLY, default=None)
    object.__setattr__(reward, "__signature__", inspect.Signature([*needed, why]))


def check_think_in_prompt(reward: str, value: object) -> None:
    """Raise unless the setting is true, false or null."""
    if value is not None and not isinstance(value, bool):
        raise ConfigError(
            f"Reward {reward}: think_in_prompt is {value!r}; give true, false, or null to see what the prompt opens."
        )


def require_extra(module: str, extra: str, who: str) -> Any:
    """The module, or a `ConfigError` with the extra of groupwise that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise ConfigError(
            f'{who} needs the package "{module}", which is not installed. Install it with: '
            f'pip install "groupwise[{extra}]"'
        ) from error


def _is_tag(tag: object) -> bool:
    return isinstance(tag, str) and re.fullmatch(r"\w[\w-]*", tag) is not None
