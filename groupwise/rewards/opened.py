"""Tags that the prompt opened, put before the completion for rewards that look for tags.

Chat templates of reasoning models end in `<think>`, and a continued message may hold a tag, so the completion goes on
inside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from groupwise.chat import CompletionValue, as_completion
from groupwise.types import Group

_OURS = f"{__name__.partition('.')[0]}."


def tags_of(call: Callable[..., Any]) -> list[str]:
    """The tags that a reward names in its settings, in the order in which a completion has them."""
    named = [getattr(call, name, None) or () for name in ("tags", "reasoning_tag", "tag", "answer_tag")]
    tags = [str(tag) for value in named for tag in ([value] if isinstance(value, str) else value)]
    return list(dict.fromkeys(tags))


def opened_completions(call: Callable[..., Any], groups: Sequence[Group]) -> dict[str, list[CompletionValue]]:
    """The keyword `completions` for a shipped reward that looks for tags which a prompt opened; none for any other.

    Where `think_in_prompt` of the reward is not null, it is used instead of what the prompt opened.
    """
    is_shipped = type(call).__module__.startswith(_OURS) and getattr(call, "think_in_prompt", None) is None
    tags = tags_of(call) if is_shipped else []
    starts = [opened(group.opening, tags) for group in groups]
    seen = [
        as_completion(group.problem.prompt, after(start, completion.text))
        for group, start in zip(groups, starts, strict=True)
        for completion in group.completions
    ]
    return {"completions": seen} if any(starts) else {}


def opened(opening: str, tags: Sequence[str]) -> str:
    """The part of a prompt's `opening` from the first of `tags` on, where it leaves one of them open; else nothing."""
    first = re.search("|".join(f"<{re.escape(tag)}>" for tag in tags), opening) if tags else None
    part = opening[first.start() :] if first else ""
    return part if any(part.rfind(f"<{tag}>") > part.rfind(f"</{tag}>") for tag in tags) else ""


def after(start: str, text: str) -> str:
    """The text behind what the prompt opened; a completion that opens the tag by itself is taken as it is."""
    first_tag = start[: start.find(">") + 1]
    return text if first_tag and first_tag in text else start + text
