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
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if not name.startswith("_"):  # a script may have changed `trl` to `groupwise` in the line of all its imports
        names = import_module("groupwise.trl.names")
        if name in {*names.OTHER_NAMES, *names.HOMES}:
            return getattr(import_module("groupwise.trl"), name)
    raise AttributeError(f"module 'groupwise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
