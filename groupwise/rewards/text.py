"""The text of what a reward function is handed: a plain string, or the messages of a chat."""

from __future__ import annotations

from collections.abc import Sequence

from groupwise.types import Message


def completion_text(completion: str | Sequence[Message]) -> str:
    """The text of one completion, whichever form it has: `len()` of it is characters for chats too."""
    if isinstance(completion, str):
        return completion
    return "".join(str(message.get("content") or "") for message in completion)


def shortened(text: str, limit: int = 200) -> str:
    """The text as Python would print it, its middle left out where it is long."""
    if len(text) <= limit:
        return repr(text)
    half = limit // 2
    return f"{text[:half]!r} ... {text[-half:]!r} ({len(text)} characters)"
