"""A completion of several turns as a conversation for people: who wrote what, and what became of each turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from groupwise.runs.text import number
from groupwise.types import Completion

Turns = Sequence[Mapping[str, Any]]
"""The turns as a record has them, see `groupwise.types.Turn`."""


def transcript(messages: Iterable[Mapping[str, Any]], turns: Turns) -> str:
    """One message after another; before each turn of the policy its calls of tools, its reward, whether it was cut."""
    ahead = iter(enumerate(turns, start=1))
    lines = []
    for message in messages:
        number_of, turn = next(ahead, (0, {})) if message["role"] == "assistant" else (0, {})
        who = f"policy, turn {number_of}" if number_of else str(message["role"])
        lines.append(f"{', '.join([who, *_facts(turn)])}: {message.get('content', '')}")
    return "\n".join(lines)


def transcript_of(completion: Completion) -> str:
    """What the completion shows to people: its text, or where an environment answered its transcript."""
    if not completion.turns:
        return completion.text
    return transcript(completion.messages, [asdict(turn) for turn in completion.turns])


def transcript_of_record(completion: Mapping[str, Any]) -> str:
    """The same of a record of `completions/`."""
    if not completion.get("turns"):
        return str(completion["text"])
    return transcript(completion["messages"], completion["turns"])


def _facts(turn: Mapping[str, Any]) -> list[str]:
    facts = [_call(call) for call in turn.get("calls", ())]
    if turn.get("reward") is not None:
        facts.append(f"reward {number(float(turn['reward']))}")
    if turn.get("stop_reason") == "length":
        facts.append("cut off")
    if turn.get("is_cut"):
        facts.append("its answer shortened")
    return facts


def _call(call: Mapping[str, Any]) -> str:
    name = call.get("name") or "no name"
    return f"call of {name}" if call.get("error") is None else f"call of {name} failed ({call['error']})"
