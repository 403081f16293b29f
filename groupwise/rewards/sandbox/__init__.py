"""Runs what is not trusted, or may hang, in processes of its own (docs/sandbox.md).

`scorer.py` calls a function in pre-started workers; `backend.py` says what shuts them in.
"""

from __future__ import annotations

from groupwise.rewards.sandbox.row_scorer import Outcome, Sandboxed

__all__ = ["Outcome", "Sandboxed"]
