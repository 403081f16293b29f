"""Searches the completions of a run, the latest steps first, a fraction of a second at a time."""

from __future__ import annotations

import heapq
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from groupwise.errors import ConfigError, RunError
from groupwise.runs.folder import RunFolder
from groupwise.watch.step_file import Group, Row, StepFile, rows, transcript_or_text
from groupwise.watch.token_values import mean_log_ratios

BUDGET_S = 0.25
"""Time that one call takes, so that the page answers in between."""

MAX_HITS = 60
AROUND = 90
"""Characters shown before and after what was found."""

ORDERS = ("latest", "best", "worst", "kl", "conflict", "longest")

Hit = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for; empty fields allow everything.

    Raises:
        ConfigError: an order that there is not.
    """

    text: str = ""
    problem: int | None = None
    is_cut_off: bool = False
    order: str = "latest"

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ConfigError(f"Found the order {self.order!r}; expected one of {', '.join(ORDERS)}.")

    def may_be_in(self, line: bytes) -> bool:
        """Whether a line has to be parsed: a quick look at its bytes."""
        if self.problem is not None and not re.search(rb'"problem": ?%d\b' % self.problem, line):
            return False
        needle = json.dumps(self.text, ensure_ascii=False)[1:-1]
        return not needle.isascii() or "\\" in needle or needle.lower().encode() in line.lower()


@dataclass(frozen=True, slots=True)
class Hits:
    """Hits in the steps that one call came through."""

    hits: list[Hit]
    next_step: int | None
    """Where the next call goes on; None where all steps have been searched."""
    num_steps: int
    """Steps that this call searched."""


def search(folder: RunFolder, steps: Sequence[int], query: Query, budget_s: float = BUDGET_S) -> Hits:
    """Completions that fit, in the order of the query, of as many of `steps` (ascending) as the time allows."""
    return _scan(folder, steps, query, lambda step, found: _hits(folder, step, found, query), budget_s)


def draws_of(folder: RunFolder, steps: Sequence[int], problem: int, budget_s: float = BUDGET_S) -> Hits:
    """The groups of a problem, one row of numbers each."""
    return _scan(
        folder,
        steps,
        Query(problem=problem),
        lambda step, found: [{"step": step, **row} for row in rows(found) if row["problem"] == problem],
        budget_s,
    )


def _scan(
    folder: RunFolder,
    steps: Sequence[int],
    query: Query,
    take: Callable[[int, list[tuple[int, Group]]], list[Hit]],
    budget_s: float,
) -> Hits:
    hits: list[Hit] = []
    end, num_steps = time.monotonic() + budget_s, 0
    for step in reversed(steps):
        is_full = query.order == "latest" and len(hits) >= MAX_HITS
        if num_steps and (time.monotonic() > end or is_full):
            return Hits(_first(hits, query.order), step, num_steps)
        hits += _in_step(folder, step, query, take)
        num_steps += 1
    return Hits(_first(hits, query.order), None, num_steps)


def _in_step(
    folder: RunFolder, step: int, query: Query, take: Callable[[int, list[tuple[int, Group]]], list[Hit]]
) -> list[Hit]:
    # Orders that compare a completion with the whole step need all of it.
    wanted = (lambda _: True) if query.order in ("kl", "conflict") else query.may_be_in
    try:
        found = list(StepFile(folder, "completions", step).groups(wanted))
    except (OSError, RunError):  # cut or rolled back since the folder was listed
        return []
    return take(step, found) if found else []


def _hits(folder: RunFolder, step: int, found: list[tuple[int, Group]], query: Query) -> list[Hit]:
    kl = mean_log_ratios(folder, step) if query.order == "kl" else []
    return [
        hit
        for row, (_, group) in zip(rows(found, kl), found, strict=True)
        if query.problem is None or group.get("problem") == query.problem
        for number, completion in enumerate(group["completions"])
        if (hit := _hit(step, row, number, completion, query)) is not None
    ]


def _hit(step: int, row: Row, number: int, completion: Any, query: Query) -> Hit | None:
    text = transcript_or_text(completion)
    at = text.lower().find(query.text.lower())
    if at < 0 or (query.is_cut_off and completion.get("stop_reason") not in ("length", "turns")):
        return None
    begin = max(0, at - AROUND)
    excerpt = text[begin : at + len(query.text) + AROUND]
    each = ("rewards", "advantages", "lengths", "stops")
    return {
        "step": step,
        "at": row["at"],
        "number": number,
        "problem": row["problem"],
        "place": row["place"],
        "prompt": row["prompt"],
        "excerpt": ("…" if begin else "") + excerpt + ("…" if begin + len(excerpt) < len(text) else ""),
        **{key: row[key][number] for key in each},
        "kl": row["kl"][number] if row["kl"] else None,
        "conflict": row["conflict"][number] if query.order == "conflict" else None,
    }


def _first(hits: list[Hit], order: str) -> list[Hit]:
    """The hits that the order puts first; those without its number are left out."""
    if order == "latest":
        return hits
    key, sign = {"best": ("rewards", 1), "worst": ("rewards", -1), "longest": ("lengths", 1)}.get(order, (order, 1))
    return heapq.nlargest(MAX_HITS, (hit for hit in hits if hit[key] is not None), key=lambda hit: sign * hit[key])
