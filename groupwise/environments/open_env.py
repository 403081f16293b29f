"""Plays an environment of OpenEnv's kind, a client of its server or the environment itself in this process."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from groupwise.environments.crew import event_loop
from groupwise.environments.environment import Observation, Reply
from groupwise.types import Message, Problem


class OpenEnvironment:
    """Each turn is an action; what is observed comes back as a message of the user, until it is done.

    `made` has `reset(seed=...)` and `step(action)`, sync or async. What they return, or its `observation`, is said;
    `reward` and `done` are read from either. `action` makes an action of a turn's text; where it raises `ValueError` or
    `LookupError`, the policy reads so, and the turn is lost.
    """

    def __init__(self, made: Any, action: Callable[[str], Any], say: Callable[[Any], str] = str) -> None:
        self.played, self._action, self._say = made, action, say

    def reset(self, problem: Problem, seed: int) -> Any:
        takes_seed = "seed" in inspect.signature(self.played.reset).parameters or _takes_all(self.played.reset)
        begun = self.played.reset(**({"seed": seed} if takes_seed else {}))
        return _then(begun, lambda result: self._message(result))

    def step(self, reply: Reply) -> Any:
        try:
            action = self._action(reply.text)
        except (ValueError, LookupError) as error:
            return Observation([{"role": "user", "content": f"No action: {error}"}])
        return _then(self.played.step(action), self._observation)

    def _observation(self, result: Any) -> Observation:
        observed = getattr(result, "observation", result)
        reward = _first_set(result, observed, "reward")
        is_done = bool(_first_set(result, observed, "done"))
        return Observation(self._message(result), None if reward is None else float(reward), is_done)

    def _message(self, result: Any) -> Sequence[Message]:
        return [{"role": "user", "content": self._say(getattr(result, "observation", result))}]

    def close(self) -> None:
        """Close it; a session of a server ends soon after, in the loop that it lives in."""
        close = getattr(self.played, "close", None)
        ended = None if close is None or event_loop().is_closed() else close()
        if inspect.isawaitable(ended):
            asyncio.run_coroutine_threadsafe(_awaited(ended, bool), event_loop())


def _then(value: Any, make: Callable[[Any], Any]) -> Any:
    """What `make` makes of a value, which may still have to be awaited."""
    return _awaited(value, make) if inspect.isawaitable(value) else make(value)


async def _awaited(value: Awaitable[Any], make: Callable[[Any], Any]) -> Any:
    return make(await value)


def _first_set(result: Any, observed: Any, name: str) -> Any:
    found = getattr(result, name, None)
    return getattr(observed, name, None) if found is None else found


def _takes_all(call: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(call).parameters.values())
