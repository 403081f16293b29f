"""Makes the environment that a recipe names: a shipped one, or a class of the user's own."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groupwise.environments.pool import EnvironmentPool
from groupwise.errors import ConfigError, words_of
from groupwise.rewards.import_function import load_object

GAMES = {"guess": "Guess"}
"""Shipped environment -> its class, in the file of that name."""


def load_environment(name: str, params: Mapping[str, Any], folder: Path | None, recorded_as: str) -> EnvironmentPool:
    """The pool of an environment; `folder` is where a file of the user's own is looked for.

    Raises:
        ConfigError: no such class, arguments that it does not take, or an object that is no environment.
    """
    made_by = game(name) if name in GAMES else load_object(name, folder or Path.cwd(), "an environment")
    _check_arguments(name, made_by, params)
    pool = EnvironmentPool(recorded_as, functools.partial(made_by, **params))
    _check_environment(name, pool)
    return pool


def game(name: str) -> Any:
    """The class of a shipped environment."""
    return getattr(importlib.import_module(f"groupwise.environments.games.{name}"), GAMES[name])


def parameters(name: str) -> tuple[str, ...]:
    """The arguments of a shipped environment."""
    return tuple(inspect.signature(game(name)).parameters)


def _check_arguments(name: str, made_by: Any, params: Mapping[str, Any]) -> None:
    try:
        inspect.signature(made_by).bind(**params)
    except TypeError as error:
        raise ConfigError(f"environment {name}: {error} ({made_by.__name__}{inspect.signature(made_by)}).") from error


def _check_environment(name: str, pool: EnvironmentPool) -> None:
    """Make one now: what is missing is found before a model is loaded."""
    try:
        (first,) = pool.take(1)
    except ConfigError:
        raise
    except Exception as error:  # the user's own code
        raise ConfigError(f"environment {name} cannot be made: {type(error).__name__}: {words_of(error)}") from error
    lacking = [method for method in ("reset", "step", "close") if not callable(getattr(first, method, None))]
    if lacking:
        raise ConfigError(
            f"environment {name} is a {type(first).__name__} without {', '.join(lacking)}; an environment has "
            "reset(problem, seed), step(reply) and close() (groupwise.environments.Environment)."
        )
