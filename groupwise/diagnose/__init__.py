"""What is wrong with a run, and what its compute bought, from a run folder alone. No torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groupwise.diagnose.compute import ComputeUse, compute_use
    from groupwise.diagnose.diagnosis import Diagnosis, Example
    from groupwise.diagnose.doctor import diagnose

_HOMES = {
    "ComputeUse": "compute",
    "Diagnosis": "diagnosis",
    "Example": "diagnosis",
    "compute_use": "compute",
    "diagnose": "doctor",
}

__all__ = ["ComputeUse", "Diagnosis", "Example", "compute_use", "diagnose"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'groupwise.diagnose' has no attribute {name!r}")
    return getattr(import_module(f"groupwise.diagnose.{_HOMES[name]}"), name)
