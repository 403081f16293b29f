"""A finding of the check: its level, the fault, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Level = Literal["fail", "warn", "note"]
"""fail: this run would not learn what it is meant to. warn: look at it before paying. note: good to know."""

LEVELS = get_args(Level)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found."""

    name: str
    """Short and lasting, for tests and for docs/check.md."""
    level: Level
    what: str
    """What was found, with the numbers it rests on."""
    remedy: str
    """The first change to make: which key to which value."""


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """By level; within a level as they were found, what comes first in a run first."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def has_passed(findings: Sequence[Finding]) -> bool:
    """Whether nothing of level fail was found."""
    return all(finding.level != "fail" for finding in findings)
