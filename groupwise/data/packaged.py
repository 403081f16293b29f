"""Data sets that come with groupwise: name -> loader. A name may carry options: `python-docs?style=chat`."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from groupwise.data import gym as reasoning_gym
from groupwise.data import python_docs
from groupwise.errors import DataError, did_you_mean

_LOADERS = {"python-docs": python_docs.load}

NAMES = tuple(_LOADERS)


def is_packaged(name: str) -> bool:
    """Whether a data set name is one of ours."""
    return name.partition("?")[0] in _LOADERS or name.startswith(reasoning_gym.PREFIX)


def load(name: str, split: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of one split, and what the record of a run should know about them."""
    if name.startswith(reasoning_gym.PREFIX):
        return reasoning_gym.load(name, split)
    base, _, query = name.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = options.keys() - {"style"}
    if unknown:
        option = min(unknown)
        raise DataError(f"{base} has no option {option!r}; it has: style.{did_you_mean(option, ['style'])}")
    return _LOADERS[base](split, **options)
