"""Data, reward and prompt bound together, one file per task.

There is no such task yet: the packaged data set `python-docs` and the reward `length` meet in the recipes. A task
belongs here as soon as its reward needs columns that only its own data has.
"""

from __future__ import annotations

NAMES: tuple[str, ...] = ()
"""Names that a recipe may give as `task`."""
