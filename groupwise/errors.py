"""Every error that groupwise raises on purpose.

    GroupwiseError
    ├── ConfigError        a recipe or an argument: unknown key, value out of range, contradiction
    ├── DataError          a data set: missing column, no rows, a row that cannot be used
    ├── EnvironmentFailedError   an environment broke down; it may raise this itself
    ├── ModelError         a model: not found, not a model folder, cannot be trained
    ├── RewardError        a reward function: wrong count, not a number, an exception inside
    ├── RolloutError       an engine: a request it cannot serve
    ├── RunError           a run folder: not one, in use, not writable, damaged
    ├── RankError          several ranks: one has failed, is gone or hangs, or computed something else
    └── TrainingError      training itself: not a number, no signal
        └── GuardError     a guard has ended the run, or would not let it start

Each message names what was found, what was expected and what to do. A programmer's mistake is an `assert`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from pathlib import Path

from groupwise.redact import redact

__all__ = [
    "ConfigError",
    "DataError",
    "EnvironmentFailedError",
    "GroupwiseError",
    "GuardError",
    "ModelError",
    "RankError",
    "RewardError",
    "RolloutError",
    "RunError",
    "TrainingError",
]


class GroupwiseError(Exception):
    """Base of all errors that are the user's to mend. What they quote may hold access tokens; they show none."""

    def __str__(self) -> str:
        return redact(super().__str__())


class ConfigError(GroupwiseError, ValueError):
    """A recipe or an argument is wrong."""


class DataError(GroupwiseError, ValueError):
    """The data set cannot be used as it is."""


class EnvironmentFailedError(GroupwiseError, RuntimeError):
    """An environment cannot answer, through no fault of the policy: the completion is unscored."""


class ModelError(GroupwiseError, ValueError):
    """The model cannot be loaded or trained."""


class RewardError(GroupwiseError, RuntimeError):
    """A reward function failed or returned something that is not a reward."""


class RolloutError(GroupwiseError, RuntimeError):
    """An engine cannot serve a request."""


class RunError(GroupwiseError, RuntimeError):
    """A run folder is missing, in use, not writable or damaged."""


class RankError(GroupwiseError, RuntimeError):
    """Another rank of the run has failed, is gone or hangs, or the ranks disagree."""


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


def named(given: object) -> str:
    """An argument of a wrong kind in words: a plain value with its type, a class, or the type of an object."""
    if isinstance(given, type):
        return f"the class {given.__name__}"
    kind = type(given)
    if kind.__module__ == "builtins":
        return f"{shortened(repr(given))} ({kind.__name__})"
    return f"a {kind.__module__.partition('.')[0]}.{kind.__name__}"


def words_of(error: BaseException, limit: int = 2000) -> str:
    """The text of another library's exception; a `__str__` that raises is no obstacle."""
    try:
        return shortened(str(error), limit)
    except Exception:  # the words of an error must not become the error
        return "(it cannot be put in words)"


def listed(names: Sequence[str], word: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f" {word} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def did_you_mean(
    word: str,
    known: Iterable[str],
    *,
    common: Collection[str] = (),
    elsewhere: Mapping[str, str] | None = None,
    spellings: Mapping[str, str] | None = None,
) -> str:
    """' Did you mean "x"?' for the known words that were most probably meant, three at most, or an empty string.

    `common` are the known words that people write; `elsewhere` maps a word of other libraries to the name here,
    `spellings` every known word to the one that the message lists.
    """
    names = [elsewhere[word]] if elsewhere and word in elsewhere else nearest(word, known, common=common)
    return _question(list(dict.fromkeys(map(spellings.__getitem__, names))) if spellings else names)


_SAME_COLUMN = (
    ("answer", "solution", "label", "target", "gold", "ground_truth", "reference", "expected", "final_answer"),
    ("prompt", "message", "question", "query", "instruction", "problem", "input", "text"),
)
"""Names that data sets use for one thing: a reward written for one of them often means another."""


def near_column(word: str, columns: Iterable[str]) -> str:
    """' Did you mean "answer"?' for the columns that were probably meant."""
    return _question(nearest_columns(word, columns))


def nearest_columns(word: str, columns: Iterable[str]) -> list[str]:
    """The columns that hold what `word` names elsewhere, else those spelt like it; three at most."""
    columns = list(columns)
    alike = next((names for names in _SAME_COLUMN if _bare(word) in names), ())
    found = [column for column in columns if _bare(column) in alike]
    found.sort(key=lambda column: _bare(column) != _bare(word))
    return found[:3] or nearest(word, columns)


def _bare(column: str) -> str:
    return column.casefold().removesuffix("s")


def near_path(path: str | os.PathLike[str]) -> str:
    """' Did you mean "runs/one"?' for a path that is not there: what lies beside its first missing part."""
    place = Path(os.path.expanduser(path))
    while not place.parent.exists():
        place = place.parent
    try:
        beside = [entry.name for entry in place.parent.iterdir()]
    except OSError:  # a file, or a folder that may not be read
        return ""
    return _question([str(place.parent / name) for name in nearest(place.name, beside)])


def _question(names: Sequence[str]) -> str:
    """The names as a question, or an empty string without any."""
    quoted = [f'"{name}"' for name in names]
    return f" Did you mean {listed(quoted, 'or')}?" if names else ""


def nearest(word: str, known: Iterable[str], *, common: Collection[str] = ()) -> list[str]:
    """The known words that were most probably meant, the best first, three at most.

    Those with the fewest slips of the finger between them and `word` count; of several the one that has the same
    letters, then the one that is known earlier. Where none of them is common, common words that `word` shortens go
    first (`max_lenght` for `max_completion_length`). A name that differs in upper and lower case alone is the one.
    """
    names = sorted(known) if isinstance(known, Set) else list(known)
    if same := [name for name in names if name.casefold() == word.casefold()]:
        return same
    alike = difflib.get_close_matches(word, names, n=10, cutoff=0.6)
    slips = {name: _slips(word, name) for name in alike}
    best = [name for name in names if name in slips and slips[name] == min(slips.values())]
    best.sort(key=lambda name: (name not in common, sorted(name) != sorted(word)))
    if best and (not common or best[0] in common):
        return best[:3]
    longer = [name for name in names if (name in common or not common) and _shortens(word, name)]
    return [*longer[: 2 if best else 3], *best][:3]


def _slips(word: str, name: str) -> int:
    """Letters left out, added, replaced, or swapped with their neighbour between two words (Damerau-Levenshtein)."""
    rows: list[list[int]] = [[*range(len(name) + 1)]]
    for i, letter in enumerate(word, start=1):
        rows.append([i])
        for j, other in enumerate(name, start=1):
            cost = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (letter != other))
            if i > 1 and j > 1 and (letter, word[i - 2]) == (name[j - 2], other):
                cost = min(cost, rows[i - 2][j - 2] + 1)
            rows[i].append(cost)
    return rows[-1][-1]


def _shortens(word: str, name: str) -> bool:
    """Whether every part of the word is a part of the name, with a slip in a long one allowed."""
    parts = re.split(r"[-_.]", name)
    return all(
        any(part == other or (len(part) > 3 and _slips(part, other) <= 1) for other in parts)
        for part in re.split(r"[-_.]", word)
    )
