"""groupwise: train language models with GRPO."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "GRPOConfig": "groupwise.config",
    "GRPOTrainer": "groupwise.trainer",
    "Recipe": "groupwise.config",
    "GroupwiseError": "groupwise.errors",
}
"""Public name -> the module that defines it. Resolved on first use, so that importing groupwise loads no torch."""

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'groupwise' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
