"""Validates the lines of a run's records for their readers; an error is one sentence.

The writer cannot write anything else; a disk, a merge or a hand can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Shape = Callable[[Mapping[str, Any]], str | None]
"""What is wrong with a record, or None."""


def metrics(record: Mapping[str, Any]) -> str | None:
    """A step's number, and numbers or null."""
    if type(record.get("step")) is not int or record["step"] < 0:
        return "it has no step number"
    wrong = [key for key, value in record.items() if not _is(value, int, float, None)]
    return f"{wrong[0]} is not a number" if wrong else None


def event(record: Mapping[str, Any]) -> str | None:
    """A kind and a time; the rest is the kind's own."""
    for key in ("kind", "time"):
        if not isinstance(record.get(key), str):
            return f"it has no {key}"
    return None if _is(record.get("step"), int, None) else "its step is not a number"


_PARTS: dict[str, tuple[Any, ...]] = {
    "recipe": (dict, None), "model": (dict, None), "data": (dict, None), "description": (list, None),
    "versions": (dict, None), "git": (dict, None), "hardware": (dict, None), "used": (dict, None), "plan": (dict, None),
}  # fmt: skip
_MODEL: dict[str, tuple[Any, ...]] = {
    "name": (str, None), "num_parameters": (int, None), "num_trainable_parameters": (int, None)
}  # fmt: skip
_PLAN: dict[str, tuple[Any, ...]] = dict.fromkeys(
    ("num_steps", "memory_bytes", "step_s", "total_s"), (int, float, None)
)
_USED: dict[str, tuple[Any, ...]] = {"stop_ids": (list, None)}
_RECIPE: dict[str, tuple[Any, ...]] = {
    "model": (str, None), "data": (dict, str, None), "rewards": (list, None), "lora": (dict, None),
    "objective": (dict, None), "run_name": (str, None), "task": (dict, None),
}  # fmt: skip


def config(record: Mapping[str, Any]) -> str | None:
    """Parts that may be missing, each of its kind."""
    return (
        _first_wrong(record, _PARTS)
        or _first_wrong(record.get("model") or {}, _MODEL, "model.")
        or _first_wrong(record.get("used") or {}, _USED, "used.")
        or _first_wrong(record.get("plan") or {}, _PLAN, "plan.")
        or _first_wrong(record.get("recipe") or {}, _RECIPE, "recipe.")
    )


_POSED: dict[str, tuple[Any, ...]] = {
    "problem": (int,), "prompt": (str, list), "columns": (dict,), "prompt_ids": (list,), "completions": (list,),
    "opening": (str, None),
}  # fmt: skip
_GROUP: dict[str, tuple[Any, ...]] = {"draw": (int,), "is_used": (bool,), **_POSED}
_EVALUATION: dict[str, tuple[Any, ...]] = {"kind": (str,), "set": (str, None), "answer": (str, None), **_POSED}
_COMPLETION: dict[str, tuple[Any, ...]] = {
    "text": (str,), "ids": (list,), "stop_reason": (str,), "rewards": (dict,), "reward": (int, float, None),
    "advantage": (int, float, None),
}  # fmt: skip


def group(record: Mapping[str, Any]) -> str | None:
    """A group with its prompt and its completions."""
    return _completions(record, _GROUP)


def evaluation(record: Mapping[str, Any]) -> str | None:
    """A held-out problem with its completions of one kind."""
    return _completions(record, _EVALUATION)


def _completions(record: Mapping[str, Any], kinds: Mapping[str, tuple[Any, ...]]) -> str | None:
    found = _first_wrong(record, kinds)
    if found is None and not isinstance(record["prompt"], str) and not all(map(_is_message, record["prompt"])):
        found = "its prompt is neither a text nor messages"
    for completion in record["completions"] if found is None else ():
        if not isinstance(completion, dict):
            return "a completion is not an object"
        found = found or _first_wrong(completion, _COMPLETION, "a completion's ")
        found = found or _first_missing(completion)
        found = found or _not_numbers(completion["rewards"])
    return found


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message


def _first_missing(completion: Mapping[str, Any]) -> str | None:
    """Keys that may be null and are always there."""
    missing = [key for key in ("reward", "advantage") if key not in completion]
    return f"a completion's {missing[0]} is missing" if missing else None


def _not_numbers(rewards: Mapping[str, Any]) -> str | None:
    wrong = [name for name, value in rewards.items() if not _is(value, int, float, None)]
    return f"the reward {wrong[0]} is not a number" if wrong else None


def _first_wrong(record: Mapping[str, Any], kinds: Mapping[str, tuple[Any, ...]], prefix: str = "") -> str | None:
    wrong = [key for key, allowed in kinds.items() if not _is(record.get(key), *allowed)]
    return f"{prefix}{wrong[0]} is missing or of another kind" if wrong else None


def _is(value: Any, *kinds: Any) -> bool:
    """Whether a value is of one of these types, None among them; a switch is no number."""
    return any(value is None if kind is None else type(value) is kind for kind in kinds)
