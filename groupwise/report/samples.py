"""Completions for the report: best and worst of a few groups, early and late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from groupwise.runs import RunReader
from groupwise.runs.records import CompletionRecord, GroupRecord

MAX_PAIRS = 3
LOOK_AT = 5
"""Steps at each end of the run that groups are taken from."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A group with its two ends."""

    step: int
    group: GroupRecord
    best: CompletionRecord
    worst: CompletionRecord


def pairs(reader: RunReader) -> Sequence[tuple[Excerpt, Excerpt | None]]:
    """(early, late) groups; of the same problem where one was drawn at both ends, in a run of one step early alone."""
    steps = reader.completion_steps()
    early = _shown(reader, steps[:LOOK_AT])
    if len(steps) < 2:
        return [(shown, None) for shown in early[:MAX_PAIRS]]
    half = min(LOOK_AT, len(steps) // 2)
    early, late = _shown(reader, steps[:half]), _shown(reader, steps[-half:][::-1])
    latest = {shown.group["problem"]: shown for shown in reversed(late)}
    same = [(shown, latest[shown.group["problem"]]) for shown in early if shown.group["problem"] in latest]
    distinct = list({first.group["problem"]: (first, second) for first, second in reversed(same)}.values())[::-1]
    others = zip(_without(early, distinct, 0), _without(late, distinct, 1), strict=False)
    return [*distinct, *others][:MAX_PAIRS]


def _shown(reader: RunReader, steps: list[int]) -> list[Excerpt]:
    """The scored groups of these steps, in their order."""
    return [
        Excerpt(step, group, *ends) for step in steps for group in reader.completions(step) if (ends := _ends(group))
    ]


def _ends(group: GroupRecord) -> tuple[CompletionRecord, CompletionRecord] | None:
    scored = [c for c in group["completions"] if c["reward"] is not None]
    if not scored:
        return None
    ranked = sorted(scored, key=lambda c: c["reward"] or 0.0)
    return ranked[-1], ranked[0]


def _without(shown: list[Excerpt], taken: list[tuple[Excerpt, Excerpt]], side: int) -> list[Excerpt]:
    problems = {pair[side].group["problem"] for pair in taken}
    return [one for one in shown if one.group["problem"] not in problems]
