"""Which of several launched processes this one is, from the environment of torchrun or accelerate. Needs no torch."""

from __future__ import annotations

import os

from groupwise.errors import ConfigError


def world_size() -> int:
    """Number of processes that were launched together; 1 without a launcher."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """Number of this process among all, from 0."""
    return _number("RANK", 0) if world_size() > 1 else 0


def local_rank() -> int:
    """Number of this process among those of its machine, from 0: the GPU that it uses."""
    return _number("LOCAL_RANK", rank()) if world_size() > 1 else 0


def is_leader() -> bool:
    """Whether this process draws, scores, records and saves: rank 0 does."""
    return rank() == 0


def _number(name: str, default: int) -> int:
    """A variable of the launcher.

    Raises:
        ConfigError: it is set, and not a whole number.
    """
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdigit():
        raise ConfigError(f'Found {name}="{text}" in the environment, expected a whole number as torchrun sets it.')
    return int(text)
