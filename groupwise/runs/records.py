"""What a line of the run folder looks like, and how our values become plain JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from groupwise.types import Completion, Group, Prompt

MAX_COLUMN_BYTES = 4096
"""A column longer than this in JSON stays out of the record: the row number still finds it in the data set."""


class CompletionRecord(TypedDict):
    text: str
    ids: list[int]
    stop_reason: str
    rewards: dict[str, float | None]
    counted: NotRequired[dict[str, float | None]]
    reward: float | None
    extra: NotRequired[dict[str, Any]]
    advantage: float | None
    logprob_mean: float | None
    logprob_min: float | None


class GroupRecord(TypedDict):
    schema_version: int
    draw: int
    problem: int
    prompt: Prompt
    columns: dict[str, Any]
    prompt_ids: list[int]
    opening: NotRequired[str]
    policy_version: int | None
    is_used: bool
    completions: list[CompletionRecord]


def group_record(group: Group, schema_version: int) -> GroupRecord:
    """One line of `completions/step-....jsonl`."""
    versions = [completion.policy_version for completion in group.completions]
    record: GroupRecord = {
        "schema_version": schema_version,
        "draw": group.draw,
        "problem": group.problem.index,
        "prompt": group.problem.prompt,
        "columns": _short_columns(group.problem.columns),
        "prompt_ids": list(group.prompt_ids),
        "policy_version": min(versions, default=None),
        "is_used": group.is_used,
        "completions": [_completion_record(group, i, c) for i, c in enumerate(group.completions)],
    }
    if group.opening:
        record["opening"] = group.opening
    return record


def _completion_record(group: Group, index: int, completion: Completion) -> CompletionRecord:
    logprobs = completion.rollout_logprob
    record: CompletionRecord = {
        "text": completion.text,
        "ids": list(completion.token_ids),
        "stop_reason": completion.stop_reason,
        "rewards": {name: rewards[index] for name, rewards in group.rewards.items()},
        "reward": group.reward[index] if group.reward else None,
        "advantage": group.advantages[index] if group.advantages else None,
        "logprob_mean": math.fsum(logprobs) / len(logprobs) if logprobs else None,
        "logprob_min": min(logprobs, default=None),
    }
    if group.counted:
        record["counted"] = {name: values[index] for name, values in group.counted.items()}
    if group.extras:
        record["extra"] = _short_columns({name: values[index] for name, values in group.extras.items()})
    return record


def _short_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: plain_value(value, {}) for name, value in columns.items()}
    return {name: value for name, value in plain.items() if len(json.dumps(value)) <= MAX_COLUMN_BYTES}


def plain_value(value: Any, not_finite: dict[str, str], path: str = "") -> Any:
    """`value` in JSON's own types. NaN and infinities become None and are noted in `not_finite` under their path."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        not_finite[path] = str(value)
        return None
    if isinstance(value, Mapping):
        return {str(k): plain_value(v, not_finite, f"{path}.{k}" if path else str(k)) for k, v in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        if all(type(item) is int for item in value):  # token ids: many, and always plain
            return list(value)
        return [plain_value(v, not_finite, f"{path}[{i}]") for i, v in enumerate(_ordered(value))]
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays, without importing either
        return plain_value(value.tolist(), not_finite, path)
    return str(value)


def _ordered(value: Sequence[Any] | set[Any] | frozenset[Any]) -> Iterator[Any]:
    return iter(sorted(value, key=str) if isinstance(value, set | frozenset) else value)
