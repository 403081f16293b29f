"""How errors show a completion."""

from __future__ import annotations


def shortened(text: str, limit: int = 200) -> str:
    """The text as Python would print it, its middle left out where it is long."""
    if len(text) <= limit:
        return repr(text)
    half = limit // 2
    return f"{text[:half]!r} ... {text[-half:]!r} ({len(text)} characters)"
