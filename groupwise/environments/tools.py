"""Tools: functions that the policy calls, run with a deadline; whatever is wrong with a call, the policy reads it."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from groupwise.chat import content_text
from groupwise.environments.crew import Answer, Crew
from groupwise.environments.environment import Observation, Reply
from groupwise.errors import ConfigError, RolloutError, did_you_mean, listed, words_of
from groupwise.tool_calls import Schema
from groupwise.types import Call, Message, Problem

TIMEOUTS_IN_A_ROW = 3
"""So many of one tool end the run: it does not come back."""


@dataclass(frozen=True)
class Tool:
    """A function that the policy can call."""

    name: str
    call: Callable[..., Any]
    """Called with the arguments by name; may be async. What it returns is read as `str` makes it."""
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """JSON schema of the arguments."""
    returns: Mapping[str, Any] | None = None
    """JSON schema of the result, which some chat templates show."""

    has_state: bool = False
    """Whether calls of one turn run one after another, in their order; else they run side by side."""

    @property
    def schema(self) -> Schema:
        """As chat templates take it."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters or {"type": "object", "properties": {}},
        }
        return {"type": "function", "function": function | ({} if self.returns is None else {"return": self.returns})}


class Toolbox:
    """The tools of a run, which all of its environments share.

    `timeout_s`: seconds for a call; None is the `tool_timeout_s` of the run.

    Raises:
        ConfigError: two tools of one name.
    """

    def __init__(self, tools: Sequence[Tool], timeout_s: float | None = None) -> None:
        self.tools = _by_name(tools)
        self.has_no_timeout = timeout_s is None
        self.timeout_s = 30.0 if timeout_s is None else timeout_s
        self._crew = Crew()
        self._timeouts: Counter[str] = Counter()
        """Tool -> its calls in a row that took too long."""
        self._lock = threading.Lock()

    def with_tools(self, tools: Sequence[Tool]) -> Toolbox:
        """With these tools besides; time-outs are counted together.

        Raises:
            ConfigError: two tools of one name.
        """
        more = copy.copy(self)
        more.tools = _by_name([*self.tools.values(), *tools])
        return more

    def run(self, calls: Sequence[Call]) -> tuple[list[Message], tuple[Call, ...]]:
        """A message of role `tool` for each call, and the calls as they ended, in their order.

        Raises:
            RolloutError: a tool has not answered several times in a row.
        """
        refusals = [call.error or self._why_not(call) for call in calls]
        chosen = [call for call, why in zip(calls, refusals, strict=True) if why is None]
        answers = iter(zip(chosen, self._answers(chosen), strict=True))
        ended = [
            self._ended(*next(answers)) if why is None else (_error(why), replace(call, error=why))
            for call, why in zip(calls, refusals, strict=True)
        ]
        messages = [{"role": "tool", "name": self._name_of(call), "content": text} for text, call in ended]
        return messages, tuple(call for _, call in ended)

    def _answers(self, calls: Sequence[Call]) -> list[Answer]:
        jobs = [functools.partial(self.tools[call.name].call, **call.arguments) for call in calls]
        has_state = [self.tools[call.name].has_state for call in calls]
        together = [job for job, alone in zip(jobs, has_state, strict=True) if not alone]
        beside = iter(self._crew.run(together, self.timeout_s))
        return [
            self._crew.run([job], self.timeout_s)[0] if alone else next(beside)
            for job, alone in zip(jobs, has_state, strict=True)
        ]

    def _name_of(self, call: Call) -> str:
        """For the chat template, which writes it as it is: never what the policy has made up."""
        return call.name if call.name in self.tools else "tool"

    def _why_not(self, call: Call) -> str | None:
        """What is wrong with a call before it is made."""
        if call.name not in self.tools:
            known = listed([*self.tools])
            return f'there is no tool "{call.name}"; there is {known}.{did_you_mean(call.name, self.tools)}'
        try:
            inspect.signature(self.tools[call.name].call).bind(**call.arguments)
        except TypeError as error:
            takes = ", ".join(inspect.signature(self.tools[call.name].call).parameters)
            return f"{call.name}: {error}; it takes {takes}."
        except ValueError:  # a function that hides its signature
            return None
        return None

    def _ended(self, call: Call, answer: Answer) -> tuple[str, Call]:
        """The text that the policy reads, and the call with its seconds and its error."""
        is_late = isinstance(answer.error, TimeoutError)
        self._count(call.name, is_late=is_late)
        if answer.error is None:
            return _text_of(answer.value), replace(call, seconds=answer.seconds)
        why = f"{type(answer.error).__name__}: {words_of(answer.error)}"
        why = f"timed out after {self.timeout_s:g} s" if is_late else " ".join(why.split())
        return _error(why), replace(call, error=why, seconds=answer.seconds)

    def _count(self, name: str, *, is_late: bool) -> None:
        with self._lock:
            self._timeouts[name] = self._timeouts[name] + 1 if is_late else 0
            if self._timeouts[name] >= TIMEOUTS_IN_A_ROW:
                raise RolloutError(
                    f"Tool {name} has not answered {TIMEOUTS_IN_A_ROW} times in a row, each time within "
                    f"{self.timeout_s:g} s (tool_timeout_s). Look at the tool, or give it more time."
                )


class ToolEnvironment:
    """Answers the calls of a turn; a turn without calls is the last."""

    def __init__(self, toolbox: Toolbox) -> None:
        self.toolbox = toolbox

    @property
    def tools(self) -> Sequence[Tool]:
        return tuple(self.toolbox.tools.values())

    def reset(self, problem: Problem, seed: int) -> Sequence[Message]:
        return ()

    def step(self, reply: Reply) -> Observation:
        messages, calls = self.toolbox.run(reply.calls)
        return Observation(messages, calls=calls)

    def close(self) -> None:
        """There is nothing to release."""


def _by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    twice = [name for name, count in Counter(tool.name for tool in tools).items() if count > 1]
    if twice:
        raise ConfigError(f"There are two tools of the name {twice[0]}. Rename one of them, or leave it out.")
    return {tool.name: tool for tool in tools}


def _text_of(value: Any) -> str:
    """A result as the policy reads it; of parts of a message, their texts. `DataError` for a picture."""
    is_parts = isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value)
    return content_text(value) if is_parts else str(value)


def _error(why: str) -> str:
    return json.dumps({"error": why}, ensure_ascii=False)
