"""Makes tools of Python functions: type hints and docstrings become schemas, by the ecosystem's own reader."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from groupwise.environments.tools import Tool
from groupwise.errors import ConfigError, named, words_of

_WANTED = (
    'A tool has a type hint for every argument, and a docstring in Google\'s style: what it does, then "Args:" with a '
    "line `name: what it is` for each argument."
)


def as_tools(given: Any) -> list[Tool]:
    """The tools in what a user gave: `Tool`s and functions, sync or async.

    Raises:
        ConfigError: a function whose type hints or docstring do not describe it, or something else.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigError(f"tools is {named(given)}; expected a list of functions: tools=[f].")
    return [each if isinstance(each, Tool) else tool_of(each) for each in given]


def tool_of(function: Callable[..., Any]) -> Tool:
    """The tool that a function is.

    Raises:
        ConfigError: no function, or one whose type hints or docstring do not describe it.
    """
    if not inspect.isroutine(function):
        wanted = "Classes are for environment_factory. " if isinstance(function, type) else ""
        raise ConfigError(
            f"A tool is {named(function)}; expected a function, or a groupwise.environments.Tool. {wanted}".rstrip()
        )
    from transformers.utils import get_json_schema

    try:
        found = get_json_schema(function)["function"]
    except Exception as error:  # also what evaluating a type hint raises
        why = " ".join(words_of(error).split()).rstrip(".!")
        raise ConfigError(f"Tool {function.__name__}{_place(function)}: {why}. {_WANTED}") from error
    return Tool(found["name"], function, found["description"], found["parameters"], found.get("return"))


def _place(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return "" if code is None else f" ({code.co_filename}, line {code.co_firstlineno})"
