"""Reads what an environment returned: a prompt's continuation, an observation, a reward; anything else is a failure."""

from __future__ import annotations

import hashlib
import json
import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

from groupwise.chat import content_text
from groupwise.environments.environment import Environment, Observation
from groupwise.errors import EnvironmentFailedError, words_of
from groupwise.types import Call, Message, Prompt

Begun = str | tuple[Message, ...]
"""What an environment begins with: messages behind the prompt, or text at the end of its last message."""


def read_begun(returned: Any) -> Begun:
    """What a `reset` returned; None is nothing."""
    if returned is None or isinstance(returned, str):
        return returned or ()
    return read_messages(returned)


def extended(prompt: Prompt, begun: Begun) -> Prompt:
    """A prompt with what an environment begins with."""
    if isinstance(prompt, str):
        return prompt + (begun if isinstance(begun, str) else "".join(str(m["content"]) for m in begun))
    if isinstance(begun, str):
        return [*prompt[:-1], {**prompt[-1], "content": content_text(prompt[-1]["content"]) + begun}]
    return [*prompt, *begun]


def shorten(messages: Sequence[Message], limit: int | None) -> tuple[list[Message], bool]:
    """The messages with at most `limit` characters in each, head and tail of a longer one; whether any was cut."""
    if limit is None:
        return list(messages), False
    short = [{**message, "content": _middle_out(str(message["content"]), limit)} for message in messages]
    return short, any(len(str(message["content"])) > limit for message in messages)


def _middle_out(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head, tail = text[: (limit + 1) // 2], text[len(text) - limit // 2 :]
    return f"{head}... {len(text) - limit} characters left out ...{tail}"


def state_of(environment: Environment, messages: Begun) -> str:
    """The state that a turn is taken in: the environment's own, or what the policy has read last."""
    own = getattr(environment, "state", None)
    if isinstance(own, str):
        return own
    text = json.dumps(messages, sort_keys=True, default=str)
    return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()


def read_observation(observation: Any) -> Observation:
    """What a `step` returned; `EnvironmentFailedError` where it is no observation."""
    if not isinstance(observation, Observation):
        raise EnvironmentFailedError(
            f"step returned a {type(observation).__name__}; expected groupwise.environments.Observation."
        )
    messages = read_messages(observation.messages)
    calls = observation.calls
    if calls is not None and not all(isinstance(call, Call) for call in calls):
        raise EnvironmentFailedError("the calls of an Observation are not groupwise.environments.Call.")
    return replace(observation, messages=messages, reward=read_reward(observation.reward))


def read_messages(messages: Any) -> tuple[Message, ...]:
    """Messages, each with a role and a content of text."""
    found = tuple(messages) if isinstance(messages, Sequence) and not isinstance(messages, str) else (messages,)
    for message in found:
        is_message = isinstance(message, Mapping) and isinstance(message.get("role"), str)
        if not is_message or not isinstance(message.get("content"), str):
            raise EnvironmentFailedError(
                f"{message!r:.200} came back; expected messages such as {{'role': 'user', 'content': 'text'}}."
            )
    return tuple(dict(message) for message in found)


def read_reward(reward: Any) -> float | None:
    """A finite number or None."""
    if reward is None:
        return None
    if not isinstance(reward, Real) or not math.isfinite(reward):
        raise EnvironmentFailedError(f"a reward of {reward!r:.80} came back; expected a finite number, or None.")
    return float(reward)


def with_final(reward: float | None, final: Any) -> float | None:
    """A last turn's reward with what an environment adds for the whole completion."""
    added = read_reward(final)
    return reward if added is None else added + (reward or 0.0)


def about(error: BaseException) -> str:
    """An environment's exception in one sentence, with its line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {words_of(error)}{where}."
