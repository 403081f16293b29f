"""Collected groups as plain JSON and back, for a checkpoint between the sampling of a step and its update.

Prompts and texts are not stored: the data and the tokens have them. Numbers of tokens are bytes in base 64.
"""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from groupwise.train.collect import Collected
from groupwise.train.sampler import GroupSampler
from groupwise.types import Completion, Problem, ScoredGroup

_OF_COMPLETION = {"token_ids", "rollout_logprob", "stop_reason", "policy_version", "text"}
_OF_GROUP = {"draw", "problem", "prompt_ids", "completions", "opening"}
_PER_FUNCTION = ("rewards", "shaped", "extras", "steps")


def encoded(collected: Collected) -> dict[str, Any]:
    """Everything of it that the data does not have."""
    plain = {name: getattr(collected, name) for name in _numbers()}
    return {
        **{name: dict(value) if isinstance(value, Mapping) else value for name, value in plain.items()},
        "groups": [_group(group) for group in collected.groups],
        "dropped": [_group(group) for group in collected.dropped],
    }


def decoded(value: Mapping[str, Any], sampler: GroupSampler) -> Collected:
    """What `encoded` was given; prompts are those of the sampler's problems."""
    found = {name: value[name] for name in _numbers()}
    wanted = {group["problem"] for group in (*value["groups"], *value["dropped"])}
    rows = _rows_of(wanted, sampler)
    groups, dropped = ([_as_group(each, rows, sampler) for each in value[name]] for name in ("groups", "dropped"))
    return Collected(tuple(groups), tuple(dropped), **found)


def _numbers() -> list[str]:
    return [each.name for each in fields(Collected) if each.name not in ("groups", "dropped")]


def _group(group: ScoredGroup) -> dict[str, Any]:
    rest = {e.name: getattr(group, e.name) for e in fields(ScoredGroup) if e.name not in _OF_GROUP}
    plain = json.loads(json.dumps(rest, default=_as_plain))
    return {
        **plain,
        "draw": group.draw,
        "problem": group.problem.index,
        "completions": [_completion(completion) for completion in group.completions],
    }


def _as_plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _completion(completion: Completion) -> dict[str, Any]:
    for each in fields(Completion):
        if each.name not in _OF_COMPLETION:
            default = None if each.default is MISSING else each.default
            assert getattr(completion, each.name) == default, f"a collection ahead cannot hold {each.name} yet"
    return {
        "token_ids": base64.b64encode(array("i", completion.token_ids).tobytes()).decode(),
        "rollout_logprob": base64.b64encode(array("d", completion.rollout_logprob).tobytes()).decode(),
        "stop_reason": completion.stop_reason,
        "policy_version": completion.policy_version,
    }


def _as_completion(value: Mapping[str, Any], sampler: GroupSampler) -> Completion:
    ids, logprobs = array("i"), array("d")
    ids.frombytes(base64.b64decode(value["token_ids"]))
    logprobs.frombytes(base64.b64decode(value["rollout_logprob"]))
    token_ids = tuple(ids)
    reason, version = value["stop_reason"], value["policy_version"]
    return Completion(token_ids, tuple(logprobs), reason, version, text=sampler.decode(token_ids))


def _as_group(value: Mapping[str, Any], rows: Mapping[int, int], sampler: GroupSampler) -> ScoredGroup:
    prepared = sampler.problems[rows[value["problem"]]]
    problem: Problem = prepared.problem
    rest = {name: each for name, each in value.items() if name not in ("draw", "problem", "completions", "reward")}
    for name in _PER_FUNCTION:
        rest[name] = {function: tuple(map(_frozen, each)) for function, each in rest[name].items()}
    return ScoredGroup(
        value["draw"],
        problem,
        prepared.prompt_ids,
        tuple(_as_completion(each, sampler) for each in value["completions"]),
        prepared.opening,
        reward=tuple(value["reward"]),
        **rest,
    )


def _frozen(value: Any) -> Any:
    """Lists as tuples: the steps of a completion."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _rows_of(wanted: set[int], sampler: GroupSampler) -> dict[int, int]:
    """Place in the data -> row of the prepared problems, from which some may have been dropped."""
    found: dict[int, int] = {}
    for row in range(len(sampler.problems)):
        if len(found) == len(wanted):
            break
        index = sampler.problems[row].problem.index
        if index in wanted:
            found[index] = row
    return found
