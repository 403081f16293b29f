"""Tests for reward functions: score completions written out, and assert the rewards they should get.

Every function takes a reward as a recipe or `reward_funcs` would: a callable, a shipped name, "file.py:function", a
mapping with parameters, or a list of them. Other keywords are columns of the data set: a list with one value a
completion, anything else for all of them. Give a column whose own values are lists as a list of lists.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from groupwise.chat import CompletionValue
from groupwise.rewards import RewardScorer, completion_text, resolve_rewards
from groupwise.rewards.flat_groups import group_from_completions
from groupwise.types import Group, Message, Prompt, ScoredGroup

__all__ = [
    "assert_independent",
    "assert_unscored",
    "assert_prefers",
    "assert_same_for_chats",
    "assert_scores",
    "score",
]

Completions = CompletionValue | Sequence[CompletionValue]
"""One completion (text, or a list of messages), or several."""


def score(
    reward: Any,
    completions: Completions,
    *,
    prompts: Prompt | Sequence[Prompt] = "",
    completion_ids: Sequence[Sequence[int]] | None = None,
    **columns: Any,
) -> list[float | None]:
    """The reward of each completion in training: a number, or None where it would be unscored.

    Raises:
        ConfigError, RewardError: whatever would stop a run: a column that is missing, too few rewards, something that
            is no number, an infinity, an exception inside.
    """
    return [value for value, _ in _scored(reward, completions, prompts, completion_ids, columns)]


def assert_scores(
    reward: Any, expected: Mapping[str, float | None], *, tolerance: float = 1e-9, **columns: Any
) -> None:
    """Assert the reward of each completion: `{"<answer>4</answer>": 1, "4": 0}`."""
    found = _scored(reward, list(expected), columns.pop("prompts", ""), columns.pop("completion_ids", None), columns)
    wrong = [
        f"{completion!r}: {_worded(value, why)}, expected {wanted}"
        for (completion, wanted), (value, why) in zip(expected.items(), found, strict=True)
        if not _is_close(value, wanted, tolerance)
    ]
    assert not wrong, "rewards differ from what was expected:\n" + "\n".join(wrong)


def assert_prefers(reward: Any, better: CompletionValue, worse: CompletionValue, **columns: Any) -> None:
    """Assert that both are scored and the first gets more than the second."""
    prompts, ids = columns.pop("prompts", ""), columns.pop("completion_ids", None)
    (high, why_high), (low, why_low) = _scored(reward, [better, worse], prompts, ids, columns)
    found = f"{_worded(high, why_high)} for {better!r}\n{_worded(low, why_low)} for {worse!r}"
    assert high is not None, f"unscored:\n{found}"
    assert low is not None, f"unscored:\n{found}"
    assert high > low, f"the first should get more:\n{found}"


def assert_unscored(reward: Any, completions: Completions, **columns: Any) -> None:
    """Assert that the reward is None for each, which is not 0."""
    prompts, ids = columns.pop("prompts", ""), columns.pop("completion_ids", None)
    found = _scored(reward, completions, prompts, ids, columns)
    scored = [
        f"{_worded(value, why)} for completion {row}" for row, (value, why) in enumerate(found) if value is not None
    ]
    assert not scored, "expected None:\n" + "\n".join(scored)


def assert_independent(reward: Any, completions: Sequence[CompletionValue], **columns: Any) -> None:
    """Assert that a completion gets the same whatever else is scored with it: alone, and in the opposite order."""
    prompts, ids = columns.pop("prompts", ""), columns.pop("completion_ids", None)
    groups = _groups(completions, prompts, ids, columns)
    scorer = RewardScorer(resolve_rewards(reward))
    together = [group.reward[0] for group in scorer.score(groups).groups]
    backwards = [group.reward[0] for group in scorer.score(groups[::-1]).groups][::-1]
    alone = [scorer.score([group]).groups[0].reward[0] for group in groups]
    for row, (one, other, third) in enumerate(zip(together, backwards, alone, strict=True)):
        assert one == other == third, (
            f"completion {row} gets {one} among the others, {other} with them in the opposite order, {third} alone: "
            f"{completion_text(completions[row])[:200]!r}"
        )


def assert_same_for_chats(reward: Any, completions: Sequence[str], **columns: Any) -> None:
    """Assert that text gets the same after a plain prompt and after a chat, whose completions are lists of messages."""
    plain = score(reward, list(completions), prompts="A question.", **columns)
    chat: list[Message] = [{"role": "user", "content": "A question."}]
    chats = score(reward, [[{"role": "assistant", "content": text}] for text in completions], prompts=chat, **columns)
    for text, one, other in zip(completions, plain, chats, strict=True):
        assert one == other, f"{one} as text and {other} as a chat (see completion_text): {text[:200]!r}"


def _scored(
    reward: Any, completions: Completions, prompts: Any, ids: Any, columns: Mapping[str, Any]
) -> list[tuple[float | None, str | None]]:
    """Each completion's reward and, where a function gives it, the reason."""
    listed = [completions] if isinstance(completions, str) or _is_chat(completions) else list(completions)
    groups = RewardScorer(resolve_rewards(reward)).score(_groups(listed, prompts, ids, columns)).groups
    return [(group.reward[0], _why(group)) for group in groups]


def _groups(
    completions: Sequence[Any], prompts: Any, ids: Sequence[Sequence[int]] | None, columns: Mapping[str, Any]
) -> list[Group]:
    """One group a completion, so that nothing is compared with anything else."""
    count = len(completions)
    by_column = {name: _one_each(name, values, count) for name, values in columns.items()}
    asked = [prompts] * count if isinstance(prompts, str) or _is_chat(prompts) else _one_each("prompts", prompts, count)
    return [
        group_from_completions(
            row,
            [] if asked[row] == "" and not isinstance(completion, str) else asked[row],
            [completion],
            None if ids is None else [ids[row]],
            {name: values[row] for name, values in by_column.items()},
        )
        for row, completion in enumerate(completions)
    ]


def _one_each(name: str, values: Any, count: int) -> list[Any]:
    if not isinstance(values, list | tuple):
        return [values] * count
    assert len(values) == count, f"{name} has {len(values)} values for {count} completions; give one for each"
    return list(values)


def _is_chat(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(each, Mapping) and "role" in each for each in value)
    )


def _why(group: ScoredGroup) -> str | None:
    return "; ".join(str(values[0]) for name, values in group.extras.items() if name.endswith("/why") and values[0])


def _worded(value: float | None, why: str | None) -> str:
    return f"{value} ({why})" if why else f"{value}"


def _is_close(value: float | None, wanted: float | None, tolerance: float) -> bool:
    if value is None or wanted is None:
        return value is wanted
    return math.isclose(value, wanted, rel_tol=0, abs_tol=tolerance)
