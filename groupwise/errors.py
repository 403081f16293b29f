"""Every error that groupwise raises on purpose.

    GroupwiseError
    ├── ConfigError        a recipe or an argument: unknown key, value out of range, contradiction
    ├── DataError          a data set: missing column, no rows, a row that cannot be used
    ├── ModelError         a model: not found, not a model folder, cannot be trained
    ├── RewardError        a reward function: wrong count, not a number, an exception inside
    ├── RolloutError       an engine: a request it cannot serve
    ├── RunError           a run folder: not one, in use, not writable, damaged
    └── TrainingError      training itself: not a number, no signal
        └── GuardError     a guard has ended the run, or would not let it start

Each message says what was found, what was expected and what to do. A programmer's mistake is an `assert`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

from groupwise.redact import redact


class GroupwiseError(Exception):
    """Base of all errors that are the user's to mend. What they quote may hold access tokens; they show none."""

    def __str__(self) -> str:
        return redact(super().__str__())


class ConfigError(GroupwiseError, ValueError):
    """A recipe or an argument is wrong."""


class DataError(GroupwiseError, ValueError):
    """The data set cannot be used as it is."""


class ModelError(GroupwiseError, ValueError):
    """The model cannot be loaded or trained."""


class RewardError(GroupwiseError, RuntimeError):
    """A reward function failed or returned something that is not a reward."""


class RolloutError(GroupwiseError, RuntimeError):
    """An engine cannot serve a request."""


class RunError(GroupwiseError, RuntimeError):
    """A run folder is missing, in use, not writable or damaged."""


class TrainingError(GroupwiseError, RuntimeError):
    """Training cannot go on."""


class GuardError(TrainingError):
    """A guard has ended the run, or would not let it start (docs/guards.md)."""


def can_name_file(name: str) -> bool:
    """Whether a file could be called so on most systems: parts of 255 bytes at most, no NUL, no half character."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return False
    if b"\0" in encoded or len(encoded) >= 4096 or any(len(part) > 255 for part in encoded.split(b"/")):
        return False
    return not name.startswith("~") or os.path.expanduser(name) != name


def shortened(text: str, limit: int = 200) -> str:
    """The text, or its beginning where it would drown a message."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def quoted(text: str, limit: int = 200) -> str:
    """The text as Python would print it, its middle left out where it is long."""
    if len(text) <= limit:
        return repr(text)
    half = limit // 2
    return f"{text[:half]!r} ... {text[-half:]!r} ({len(text)} characters)"


def words_of(error: BaseException, limit: int = 2000) -> str:
    """What an exception of somebody else's says, whatever its `__str__` does."""
    try:
        return shortened(str(error), limit)
    except Exception:  # the words of an error must not become the error
        return "(it cannot be put in words)"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean "x"?' for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else ""
