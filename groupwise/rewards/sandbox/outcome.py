"""What came of one row in a worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """The JSON value a function returned, or why there is none."""

    value: Any
    error: str | None
    """One sentence ("timed out after 10 s", "killed: out of memory", "raised ValueError: ..."), or None."""
    seconds: float
