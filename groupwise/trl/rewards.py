"""TRL's reward functions, from TRL itself where it is installed."""

from __future__ import annotations

from typing import Any

from groupwise.rewards import TRLS
from groupwise.trl.names import from_trl


def __getattr__(name: str) -> Any:
    if name not in TRLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return from_trl("trl.rewards", name)


def __dir__() -> list[str]:
    return sorted(TRLS)
