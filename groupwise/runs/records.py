"""The records of a run folder: the keys of each line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NotRequired, TypedDict

from groupwise.json_values import plain_value
from groupwise.types import Completion, Message, Prompt, ScoredGroup, StepGroup, row_place

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
    messages: NotRequired[list[Message]]
    turns: NotRequired[list[dict[str, Any]]]


class GroupRecord(TypedDict):
    schema_version: int
    draw: int
    problem: int
    prompt: Prompt
    columns: dict[str, Any]
    prompt_ids: list[int]
    opening: NotRequired[str]
    place: NotRequired[str]
    environment: NotRequired[dict[str, Any]]
    policy_version: int | None
    is_used: bool
    completions: list[CompletionRecord]


class EvaluationRecord(TypedDict):
    schema_version: int
    kind: str
    set: NotRequired[str]
    problem: int
    prompt: Prompt
    columns: dict[str, Any]
    answer: NotRequired[str]
    prompt_ids: list[int]
    opening: NotRequired[str]
    place: NotRequired[str]
    environment: NotRequired[dict[str, Any]]
    policy_version: int | None
    completions: list[CompletionRecord]


def group_record(group: StepGroup, schema_version: int) -> GroupRecord:
    """One line of `completions/step-....jsonl`."""
    record: GroupRecord = {
        "schema_version": schema_version,
        "draw": group.draw,
        "problem": group.problem.index,
        "prompt": group.problem.prompt,
        "columns": _short_columns(group.problem.columns),
        "prompt_ids": list(group.prompt_ids),
        "policy_version": _oldest_version(group),
        "is_used": group.is_used,
        "completions": [_completion_record(group, i, c) for i, c in enumerate(group.completions)],
    }
    _add_circumstances(record, group)
    return record


def evaluation_record(
    group: ScoredGroup, kind: str, set_name: str, answer: str | None, schema_version: int
) -> EvaluationRecord:
    """One line of `evaluations/step-....jsonl`; `set_name` is empty for an evaluation set without one."""
    record: EvaluationRecord = {
        "schema_version": schema_version,
        "kind": kind,
        "problem": group.problem.index,
        "prompt": group.problem.prompt,
        "columns": _short_columns(group.problem.columns),
        "prompt_ids": list(group.prompt_ids),
        "policy_version": _oldest_version(group),
        "completions": [_completion_record(group, i, c) for i, c in enumerate(group.completions)],
    }
    if set_name:
        record["set"] = set_name
    if answer is not None:
        record["answer"] = answer
    _add_circumstances(record, group)
    return record


def _oldest_version(group: ScoredGroup) -> int | None:
    return min((completion.policy_version for completion in group.completions), default=None)


def _add_circumstances(record: GroupRecord | EvaluationRecord, group: ScoredGroup) -> None:
    """The keys that are there where there is something."""
    if group.opening:
        record["opening"] = group.opening
    if group.problem.place != row_place(group.problem.index):
        record["place"] = group.problem.place
    if group.environment is not None:
        name, seed = group.environment
        record["environment"] = {"name": name, "seed": seed}


def _completion_record(group: ScoredGroup, index: int, completion: Completion) -> CompletionRecord:
    advantages = group.advantages if isinstance(group, StepGroup) else ()
    logprobs = [completion.rollout_logprob[place] for place in completion.sampled]
    record: CompletionRecord = {
        "text": completion.text,
        "ids": list(completion.token_ids),
        "stop_reason": completion.stop_reason,
        "rewards": {name: rewards[index] for name, rewards in group.rewards.items()},
        "reward": group.reward[index] if group.reward else None,
        "advantage": advantages[index] if advantages else None,
        "logprob_mean": math.fsum(logprobs) / len(logprobs) if logprobs else None,
        "logprob_min": min(logprobs, default=None),
    }
    if group.shaped:
        record["counted"] = {name: values[index] for name, values in group.shaped.items()}
    if group.extras:
        record["extra"] = _short_columns({name: values[index] for name, values in group.extras.items()})
    if completion.turns:
        record["messages"] = [plain_value(message, {}) for message in completion.messages]
        record["turns"] = [plain_value(asdict(turn), {}) for turn in completion.turns]
    return record


def _short_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: plain_value(value, {}) for name, value in columns.items()}
    return {name: value for name, value in plain.items() if len(json.dumps(value)) <= MAX_COLUMN_BYTES}
