"""The protocol of an environment: it begins a completion, answers each turn, and says what the turn is worth.

One instance plays one completion at a time and is used again after the next `reset`. The completions of a group begin
in one state: `reset` gets the same seed for each, and draws whatever it draws at random from it. While `reset` runs,
`random` and numpy's global generator are seeded with it, too; in `step`, a generator of the environment's own has to
do, because the steps of a round run beside each other.

Four attributes are optional:

    problems(split)       rows of a data set for "train" and "eval", for recipes without data; None: no such split
    tools                 what the policy can call; its calls are parsed from each turn into `Reply.calls`
    final_reward()        a reward for the completion as a whole, added to that of its last turn; may be async
    state                 what `Turn.state` is; by default what the policy has read last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from groupwise.types import Call, Message, Problem, StopReason


@dataclass(frozen=True, slots=True)
class Reply:
    """One turn of the policy."""

    text: str
    calls: tuple[Call, ...] = ()
    """Calls of tools in the text; a malformed one has an `error`."""
    ids: tuple[int, ...] = ()
    stop_reason: StopReason = "stop"
    """length: the turn was cut off."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What comes back."""

    messages: Sequence[Message] = ()
    """What the policy reads next, under the roles of its chat template; none ends the completion."""
    reward: float | None = None
    """For the turn; None is unscored, which is not 0."""
    done: bool = False
    """Whether the completion ends with the turn."""
    info: Mapping[str, Any] = field(default_factory=dict)
    calls: tuple[Call, ...] | None = None
    """The calls of the reply as they ended, with seconds and errors; None: as they were written."""

    @property
    def is_last(self) -> bool:
        return self.done or not self.messages


class Environment(Protocol):
    """What answers the policy. Exceptions mean that it broke down: the completion is unscored then, never worth 0."""

    def reset(self, problem: Problem, seed: int) -> Sequence[Message]:
        """Begin anew. The messages are added to the problem's prompt; none adds nothing. May be async."""
        ...

    def step(self, reply: Reply) -> Observation:
        """The answer to a turn. May be async."""
        ...

    def close(self) -> None:
        """Release what it holds; the last call."""
        ...
