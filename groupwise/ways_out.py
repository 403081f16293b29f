"""What messages call the ways out of a used run folder: arguments in Python, options on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class WaysOut(NamedTuple):
    """The words of one kind of caller."""

    resume: str
    overwrite: str
    allow_changes: str


IN_PYTHON = WaysOut("train(resume_from_checkpoint=True)", "overwrite_output_dir=True", "train(allow_changes=True)")
ON_COMMAND_LINE = WaysOut("--resume", "--overwrite", "--allow-changes")

_current = ContextVar("ways_out", default=IN_PYTHON)


def ways_out() -> WaysOut:
    """The words of whoever has called: a program, or inside `on_command_line` the command."""
    return _current.get()


@contextmanager
def on_command_line() -> Iterator[None]:
    """Inside, messages name options of `groupwise train`."""
    token = _current.set(ON_COMMAND_LINE)
    try:
        yield
    finally:
        _current.reset(token)
