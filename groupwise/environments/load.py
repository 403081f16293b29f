"""Makes the environment and the tools of a run, from what a recipe names or from objects."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from groupwise.environments.describe import as_tools
from groupwise.environments.environment import Environment
from groupwise.environments.mcp_tools import MCP, tools_at
from groupwise.environments.pool import KIND, EnvironmentPool, MixedPool
from groupwise.environments.python_tool import python_tool
from groupwise.environments.tools import Tool, Toolbox, ToolEnvironment
from groupwise.environments.trl_env import TrlEnvironment
from groupwise.errors import ConfigError, DataError, did_you_mean, words_of
from groupwise.rewards.import_function import load_object
from groupwise.types import Problem

GAMES = {"calculator": "Calculator", "grid": "Grid", "guess": "Guess"}
"""Shipped environment -> its class, in the file of that name."""

TOOLS: dict[str, Callable[[float], Tool]] = {"python": python_tool}
"""Shipped tool -> what makes it; it gets `tool_timeout_s`."""


def load_environment(
    name: str, params: Mapping[str, Any], folder: Path | None, recorded_as: str, toolbox: Toolbox
) -> EnvironmentPool:
    """The pool of an environment; `folder` is where a file of the user's own is looked for.

    Raises:
        ConfigError: no such class, arguments that it does not take, or an object that is no environment.
    """
    made_by = game(name) if name in GAMES else load_object(name, folder or Path.cwd(), "an environment")
    _check_arguments(name, made_by, params)
    return make_pool(f"environment {name}", functools.partial(made_by, **params), recorded_as, toolbox)


def load_toolbox(names: Sequence[str], folder: Path | None, timeout_s: float) -> Toolbox:
    """The tools of a recipe: shipped ones, functions of the user's own, and those of MCP servers.

    Raises:
        ConfigError: no such function, one that does not describe itself, no sandbox for the shipped ones, or a server
            that does not answer.
    """
    given: list[Any] = []
    for name in names:
        if name in TOOLS:
            given.append(name)
        elif name.startswith(MCP):
            given += tools_at(name.removeprefix(MCP))
        else:
            given.append(load_object(name, folder or Path.cwd(), "a tool"))
    return make_toolbox(given, timeout_s)


def make_toolbox(tools: Any, timeout_s: float) -> Toolbox:
    """The toolbox of `Tool`s, functions and names of shipped tools.

    Raises:
        ConfigError: no function, one that does not describe itself, two of one name, or no sandbox for one of them.
    """
    is_list = isinstance(tools, list | tuple)
    given = [_shipped(each, timeout_s) if isinstance(each, str) else each for each in tools] if is_list else tools
    toolbox = Toolbox(as_tools(given), timeout_s)
    for name, tool in toolbox.tools.items():
        check: Any = getattr(tool.call, "check_sandbox", None)
        if check is not None:
            try:
                check()
            except ConfigError as error:
                raise ConfigError(f"Tool {name}: {error}") from None
    return toolbox


def _shipped(name: str, timeout_s: float) -> Tool:
    if name not in TOOLS:
        raise ConfigError(
            f'There is no tool "{name}"; there is {", ".join(TOOLS)}, and functions: tools=[f].'
            f"{did_you_mean(name, TOOLS)}"
        )
    return TOOLS[name](timeout_s)


def tool_pool(toolbox: Toolbox) -> EnvironmentPool:
    """The pool of a run that has tools and no environment."""
    return EnvironmentPool("tools", functools.partial(ToolEnvironment, toolbox), has_reward=False)


def pool_of_objects(given: Any, name_of: Callable[[Any], str], toolbox: Toolbox) -> EnvironmentPool:
    """The pool of a class or function that makes environments, or of several under the names of their kinds.

    Raises:
        ConfigError: something that cannot be called without arguments, or makes no environment.
    """
    if not isinstance(given, Mapping):
        return make_pool(f"environment {name_of(given)}", given, name_of(given), toolbox)
    made = {
        str(kind): make_pool(f"environment {kind}", make, name_of(make), toolbox, hidden=(KIND,))
        for kind, make in given.items()
    }
    if not made:
        raise ConfigError("environment is an empty dict; give at least one, under the name that the data has for it.")
    return MixedPool(made)


def make_pool(
    what: str, make: Callable[[], Any], recorded_as: str, toolbox: Toolbox, hidden: Sequence[str] = ()
) -> EnvironmentPool:
    """The pool of one kind. One environment is made now: what is missing is found before a model is loaded.

    A class of TRL's kind is played by an adapter, beside the tools of the run, and named by its class.
    """
    first = _made(what, make)
    _check_kind(what, first)
    again = _first_then(first, make, toolbox.timeout_s)
    if not is_played_by_tools(first):
        if toolbox.tools:
            raise ConfigError(
                f"tools stand beside {what}, which answers turns itself. Leave them out, or give it an attribute "
                "tools (groupwise.environments.ToolEnvironment shows how it answers calls)."
            )
        return EnvironmentPool(recorded_as, again)
    adapted = functools.partial(TrlEnvironment, again, toolbox, hidden)
    pool = EnvironmentPool(type(first).__name__, adapted, has_reward=hasattr(first, "get_reward"))
    pool.instances(1)
    return pool


def is_played_by_tools(made: Any) -> bool:
    """Whether an object is an environment of TRL's kind: `reset` takes the row by name, and there is no `step`."""
    if all(callable(getattr(made, method, None)) for method in ("step", "close")):
        return not _takes_problem_and_seed(made)
    return next(iter(inspect.signature(made.reset).parameters), "") != "problem"


def check_data(pool: EnvironmentPool, problems: Iterable[Problem], columns: Sequence[str]) -> None:
    """Check that every problem has an environment, and that the columns are those that a `reset` takes.

    Raises:
        ConfigError: a column is missing.
        DataError: a problem of no known kind, with its row.
    """
    if isinstance(pool, MixedPool):
        if KIND not in columns:
            raise DataError(
                f"There are several environments ({', '.join(pool.kinds)}), and the data has no column {KIND!r} that "
                "chooses one for each row."
            )
        for problem in problems:
            pool.pool_of(problem)
    for kind in pool.kinds.values():
        (first,) = kind.instances(1)
        if isinstance(first, TrlEnvironment):
            first.check(columns)


def load_tools(pool: EnvironmentPool) -> None:
    """Start now what the first call of a tool would start: its sandboxes."""
    for kind in pool.kinds.values():
        (first,) = kind.instances(1)
        for tool in getattr(first, "tools", ()):
            if (load := getattr(tool.call, "load", None)) is not None:
                load()


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


def _made(what: str, make: Callable[[], Any]) -> Any:
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise ConfigError(
            f"{what} cannot be made without arguments: {error}. Give a function that makes it: lambda: Name(...)."
        ) from error
    except ValueError:  # a callable that hides its signature
        pass
    try:
        return make()
    except ConfigError:
        raise
    except Exception as error:  # the user's own code
        raise ConfigError(f"{what} cannot be made: {type(error).__name__}: {words_of(error)}") from error


def _check_kind(what: str, first: Any) -> None:
    """Raise `ConfigError` for an object that is no environment of either kind."""
    has_reset = callable(getattr(first, "reset", None))
    if has_reset and is_played_by_tools(first):
        return
    lacking = [method for method in ("reset", "step", "close") if not callable(getattr(first, method, None))]
    if lacking:
        raise ConfigError(
            f"{what} is a {type(first).__name__} without {', '.join(lacking)}; an environment has "
            "reset(problem, seed), step(reply) and close() (groupwise.environments.Environment), or reset(**columns) "
            "and methods that are tools, as in TRL."
        )


def _takes_problem_and_seed(made: Any) -> bool:
    try:
        inspect.signature(made.reset).bind("problem", "seed")
    except TypeError:
        return False
    return True


def _first_then(first: Environment, make: Callable[[], Any], timeout_s: float) -> Callable[[], Any]:
    """Gives `first`, then makes more; tools of their own that have no time-out get that of the run."""
    waiting = [first]

    def ready() -> Any:
        made = waiting.pop() if waiting else make()
        own = getattr(made, "toolbox", None)
        if isinstance(own, Toolbox) and own.has_no_timeout:
            own.timeout_s = timeout_s
        return made

    return ready
