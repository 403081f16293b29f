"""The pre-flight check of a recipe: data, prompts, rewards, the untrained model, cost.

Every check is one function that returns `Finding`s. Each file holds the checks of its subject with their thresholds:
data.py, prompts.py, completions.py, rewards.py, probes.py, machine.py. `run_checks.py` puts them in order.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groupwise.check.finding import Finding, worst_first
    from groupwise.check.result import Result
    from groupwise.check.run_checks import check

_HOMES = {"Finding": "finding", "Result": "result", "check": "run_checks", "worst_first": "finding"}

__all__ = ["Finding", "Result", "check", "worst_first"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'groupwise.check' has no attribute {name!r}")
    return getattr(import_module(f"groupwise.check.{_HOMES[name]}"), name)
