"""Worker processes for code that is not trusted or may hang (docs/sandbox.md).

`row_scorer.py` calls a function in pre-started workers; `backend.py` is the protocol of what confines them.
"""

from __future__ import annotations

from groupwise.rewards.sandbox.row_scorer import Outcome, Sandboxed
from groupwise.rewards.sandbox.tests import read_tests

__all__ = ["Outcome", "Sandboxed", "read_tests"]
