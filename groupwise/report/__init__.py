"""Curves, tables and the model card, from a run folder alone. No torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groupwise.report.card import model_card
    from groupwise.report.write import write_report

_HOMES = {"model_card": "card", "write_report": "write"}

__all__ = ["model_card", "write_report"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'groupwise.report' has no attribute {name!r}")
    return getattr(import_module(f"groupwise.report.{_HOMES[name]}"), name)
