"""Plays an environment of TRL's kind: `reset(**row)`, public methods that are tools, perhaps `get_reward()`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Any

from groupwise.chat import content_text
from groupwise.environments.describe import tool_of
from groupwise.environments.environment import Observation, Reply
from groupwise.environments.tools import Tool, Toolbox, ToolEnvironment
from groupwise.errors import ConfigError, EnvironmentFailedError, listed
from groupwise.types import Problem

_NO_TOOLS = ("reset", "get_reward")


class TrlEnvironment(ToolEnvironment):
    """One instance of a user's class, whose methods the policy calls beside the tools of the run.

    A turn without calls is the last. `get_reward()`, sync or async, is the reward of the completion.
    """

    def __init__(self, make: Callable[[], Any], toolbox: Toolbox, hidden: Collection[str] = ()) -> None:
        """`make` builds an instance, `toolbox` holds the tools that are none of its methods; `reset` gets no column of
        `hidden`.

        Raises:
            ConfigError: a method whose type hints or docstring do not describe it.
        """
        self._make, self._shared, self._hidden = make, toolbox, frozenset(hidden)
        self._renew()

    def _renew(self) -> None:
        self.played = self._make()
        self._is_late = False
        super().__init__(self._shared.with_tools(tools_of(self.played)))
        if hasattr(self.played, "get_reward"):
            self.final_reward = self.played.get_reward

    def reset(self, problem: Problem, seed: int) -> Any:
        """What its `reset` returns, as text at the end of the prompt; it gets the columns of its row that it takes."""
        if self._is_late:  # a call that hangs still has the old one
            self._renew()
        row = {name: value for name, value in problem.columns.items() if name not in self._hidden}
        begun = self.played.reset(**_taken(self.played.reset, {"prompt": problem.prompt, **row}, seed))
        return _awaited(begun) if inspect.isawaitable(begun) else _text_of(begun)

    def step(self, reply: Reply) -> Observation:
        observation = super().step(reply)
        self._is_late = self._is_late or any("timed out" in (call.error or "") for call in observation.calls or ())
        return observation

    def check(self, columns: Collection[str]) -> None:
        """Raise `ConfigError` where nothing answers, or `reset` requires a column that the data does not have."""
        if not self.tools and not hasattr(self.played, "get_reward"):
            raise ConfigError(
                f"{type(self.played).__name__} has no public method that the policy could call, no get_reward and no "
                "step: nothing would answer. Give it a method with type hints and a docstring."
            )
        found = {"prompt", *columns} - self._hidden
        parameters = inspect.signature(self.played.reset).parameters.values()
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        missing = [p.name for p in named if p.default is p.empty and p.name not in {*found, "seed"}]
        if missing:
            raise ConfigError(
                f"{type(self.played).__name__}.reset takes {listed(missing)}, which is no column of the data. It gets "
                f"the columns of its row by name: {', '.join(sorted(found))}. Give the argument a default."
            )


def tools_of(played: Any) -> list[Tool]:
    """The public methods of its class, but those that the trainer calls."""
    members = inspect.getmembers(type(played), predicate=inspect.isfunction)
    names = [name for name, _ in members if not name.startswith("_") and name not in _NO_TOOLS]
    return [replace(tool_of(getattr(played, name)), has_state=True) for name in names]


def _taken(reset: Callable[..., Any], row: dict[str, Any], seed: int) -> dict[str, Any]:
    """What the signature takes of a row, and the seed where it names one and no column is called so."""
    parameters = inspect.signature(reset).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    seeded = {"seed": seed} if "seed" in parameters else {}
    return seeded | {name: value for name, value in row.items() if takes_all or name in parameters}


async def _awaited(begun: Awaitable[Any]) -> str | None:
    return _text_of(await begun)


def _text_of(begun: Any) -> str | None:
    """The text of what `reset` returned: text, parts of a message, or nothing."""
    if begun is None or isinstance(begun, str):
        return begun
    if isinstance(begun, list):
        return content_text(begun)
    raise EnvironmentFailedError(f"reset returned a {type(begun).__name__}; expected text, or None.")
