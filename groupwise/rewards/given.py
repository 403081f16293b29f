"""Completions that nobody sampled here, as groups: from a file, or written out in a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groupwise.chat import CompletionValue, completion_text
from groupwise.types import Completion, Group, Problem, Prompt


def given_group(
    number: int,
    prompt: Prompt,
    completions: Sequence[CompletionValue],
    completion_ids: Sequence[Sequence[int]] | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Group:
    """A group of these completions. Without token ids, reward functions are not handed any."""
    ids = completion_ids if completion_ids is not None else [()] * len(completions)
    made = tuple(
        Completion(tuple(tokens), (), stop_reason="stop", policy_version=0, text=completion_text(completion))
        for completion, tokens in zip(completions, ids, strict=True)
    )
    return Group(draw=number, problem=Problem(number, prompt, dict(columns or {})), prompt_ids=(), completions=made)
