"""Completions that nobody sampled here, as groups: from a file, or written out in a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groupwise.chat import CompletionValue, completion_text, opening
from groupwise.types import Completion, Group, Problem, Prompt


def given_group(
    number: int,
    prompt: Prompt,
    completions: Sequence[CompletionValue],
    completion_ids: Sequence[Sequence[int]] | None = None,
    columns: Mapping[str, Any] | None = None,
    opened: str | None = None,
) -> Group:
    """A group of these completions. Without token ids, reward functions are not handed any.

    `opened` is the group's `opening`; without it, it is what the prompt shows without a chat template.
    """
    if opened is None:
        opened = opening(prompt, prompt if isinstance(prompt, str) else "")
    ids = completion_ids if completion_ids is not None else [()] * len(completions)
    made = tuple(
        Completion(tuple(tokens), (), stop_reason="stop", policy_version=0, text=completion_text(completion))
        for completion, tokens in zip(completions, ids, strict=True)
    )
    return Group(number, Problem(number, prompt, dict(columns or {})), (), made, opening=opened)
