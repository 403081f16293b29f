"""Held-out completions for the report: the first evaluation beside the last, and which answers were confused."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from groupwise.runs import RunReader
from groupwise.runs.records import CompletionRecord, EvaluationRecord
from groupwise.types import Prompt

MAX_PROBLEMS = 8
MAX_LABELS = 12
"""Different answers that a table still shows."""
OTHER = "something else"


@dataclass(frozen=True, slots=True)
class Confusion:
    """How often each answer was given where each was right."""

    given: tuple[str, ...]
    """The columns: every answer of the data, and OTHER."""
    rows: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class HeldOutProblem:
    """A problem and its completion in the first and in the last evaluation."""

    prompt: Prompt
    answer: str
    first: CompletionRecord | None
    last: CompletionRecord | None


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What an evaluation set got."""

    name: str
    kind: str
    """Of the completions: greedy ones where there are some, else sampled ones."""
    first_step: int
    last_step: int
    problems: tuple[HeldOutProblem, ...]
    confusion: Confusion | None
    """None where the data has no answers, one, or many."""

    @property
    def has_two(self) -> bool:
        return self.first_step != self.last_step

    @property
    def when_first(self) -> str:
        return _when(self.first_step)

    @property
    def when_last(self) -> str:
        return _when(self.last_step)


def held_out_of(reader: RunReader) -> list[HeldOut]:
    """One for each evaluation set of the last evaluation; empty where none is recorded."""
    steps = reader.evaluation_steps()
    if not steps:
        return []
    first, last = reader.evaluations(steps[0]), reader.evaluations(steps[-1])
    names = dict.fromkeys(record.get("set", "") for record in last)
    return [_of_set(name, (steps[0], first), (steps[-1], last)) for name in names]


def _of_set(name: str, first: tuple[int, list[EvaluationRecord]], last: tuple[int, list[EvaluationRecord]]) -> HeldOut:
    kind, chosen = _of_one_kind(name, last[1])
    before = {r["problem"]: r for r in first[1] if r.get("set", "") == name and r["kind"] == kind}
    problems = [
        HeldOutProblem(r["prompt"], r.get("answer", ""), _one(before.get(r["problem"])), _one(r))
        for r in chosen[:MAX_PROBLEMS]
    ]
    return HeldOut(name, kind, first[0], last[0], tuple(problems), confusion(chosen))


def _of_one_kind(name: str, records: Sequence[EvaluationRecord]) -> tuple[str, list[EvaluationRecord]]:
    """The records of a set with greedy completions where there are some, else those with sampled ones."""
    of_set = [record for record in records if record.get("set", "") == name]
    kind = "greedy" if any(record["kind"] == "greedy" for record in of_set) else "sampled"
    return kind, [record for record in of_set if record["kind"] == kind]


def confusions(records: Sequence[EvaluationRecord]) -> list[tuple[str, str, Confusion]]:
    """Name and kind of each evaluation set that has few answers, and their confusion."""
    chosen = {name: _of_one_kind(name, records) for name in dict.fromkeys(r.get("set", "") for r in records)}
    found = [(name, kind, confusion(of_kind)) for name, (kind, of_kind) in chosen.items()]
    return [(name, kind, counts) for name, kind, counts in found if counts is not None]


def confusion(records: Sequence[EvaluationRecord]) -> Confusion | None:
    """Counts of completions by the data's answer and by what was answered; None without two to `MAX_LABELS` answers.

    Answers that differ in case, or in punctuation around them, are one.
    """
    pairs = [(record["answer"], c["text"]) for record in records if "answer" in record for c in record["completions"]]
    labels = {_plain(answer): answer for answer, _ in reversed(pairs)}
    if not 2 <= len(labels) <= MAX_LABELS:
        return None
    counts = Counter((_plain(answer), _given(text, labels)) for answer, text in pairs)
    ordered = sorted(labels)
    rows = [(labels[right], tuple(counts[right, given] for given in [*ordered, OTHER])) for right in ordered]
    return Confusion((*(labels[label] for label in ordered), OTHER), tuple(rows))


def _given(text: str, labels: dict[str, str]) -> str:
    """The label that a completion settles on: the one it equals, or the only one that stands in it as a word."""
    plain = _plain(text)
    if plain in labels:
        return plain
    found = [label for label in labels if re.search(rf"(?<!\w){re.escape(label)}(?!\w)", plain)]
    return found[0] if len(found) == 1 else OTHER


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(string.punctuation + " ")


def _one(record: EvaluationRecord | None) -> CompletionRecord | None:
    return None if record is None or not record["completions"] else record["completions"][0]


def _when(step: int) -> str:
    return "untrained" if step == 0 else f"after step {step}"
