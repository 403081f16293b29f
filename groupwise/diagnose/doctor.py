"""Looks for every sign in a run, and puts what was found into words."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from groupwise.diagnose.compute import ComputeUse, compute_use
from groupwise.diagnose.diagnosis import CERTAINTIES, Diagnosis
from groupwise.diagnose.run_view import RunView
from groupwise.diagnose.signs import SIGNS
from groupwise.diagnose.trend import has_learnt, held_out_change, reward_change
from groupwise.redact import redact
from groupwise.runs.reader import RunReader
from groupwise.runs.series import Record
from groupwise.runs.text import clean

MOST_IN_SHORT = 3
LOOKS_LEARNT = ("one_answer",)
"""Signs of a run whose reward rises, held-out reward included, and that has learnt nothing."""


@dataclass(frozen=True)
class Examination:
    """What the records of a run show about it."""

    folder: Path
    records: Sequence[Record]
    """Of its steps."""
    found: Sequence[Diagnosis]
    """See `diagnose`."""
    compute: ComputeUse

    @property
    def progress(self) -> list[str]:
        """Whether the run has learnt: a sentence about the reward, and one about held-out problems."""
        return progress_of(self.records)


def examine(run: RunReader) -> Examination:
    """Read a run once for its report and for the last lines of the screen.

    Raises:
        RunError: a record is damaged.
    """
    return Examination(run.folder.path, run.metrics(), diagnose(run), compute_use(run))


def diagnose(run: RunReader, until: int | None = None) -> list[Diagnosis]:
    """What is wrong with a run, the surest first, causes of others before them; `until`: as it was after that step.

    Raises:
        RunError: a record is damaged.
    """
    view = RunView(run, until)
    found = [diagnosis for sign in SIGNS if view.records and (diagnosis := sign.find(view)) is not None]
    return sorted(found, key=lambda diagnosis: CERTAINTIES.index(diagnosis.certainty))


def progress_of(records: Sequence[Record]) -> list[str]:
    """Whether a run has learnt: a sentence about the reward, and one about held-out problems."""
    trained, held_out = reward_change(records), held_out_change(records)
    return [each.verdict for each in (trained, held_out) if each is not None]


def closing_lines(run: Examination) -> list[str]:
    """The last words about a run: whether it learnt, why not, and what its compute bought."""
    found, more = run.found, f"groupwise doctor {shlex.quote(str(run.folder))}"
    if has_learnt(run.records) and not any(each.name in LOOKS_LEARNT for each in found):
        words = [f"The doctor found {found[0].name} in a run that learns: {more}"] if found else []
    else:
        words = [*in_short(found), *([f"The evidence: {more}"] if found else [])]
    return [redact(line) for line in (*run.progress, *words, *run.compute.lines)]


def in_full(found: Sequence[Diagnosis]) -> str:
    """Every diagnosis with its evidence, examples, causes and first change."""
    if not found:
        return "Nothing found: no sign of the table in docs/doctor.md."
    return "\n\n".join(_paragraph(number, each) for number, each in enumerate(found, start=1))


def in_short(found: Sequence[Diagnosis]) -> list[str]:
    """A line a diagnosis, the first few: the symptom and the first change."""
    lines = [f"{each.symptom} First change: {each.first_change}" for each in found[:MOST_IN_SHORT]]
    more = len(found) - MOST_IN_SHORT
    return [*lines, f"And {more} more."] if more > 0 else lines


def where(diagnosis: Diagnosis) -> str:
    """The steps that show it, and how sure the doctor is."""
    steps = f"steps {diagnosis.first_step} to {diagnosis.last_step}"
    if diagnosis.first_step == diagnosis.last_step:
        steps = f"step {diagnosis.first_step}"
    return f"{diagnosis.name}, {steps}, {diagnosis.certainty}"


def _paragraph(number: int, diagnosis: Diagnosis) -> str:
    lines = [
        f"{number}. {diagnosis.symptom}",
        f"   ({where(diagnosis)})",
        *(f"   - {clean(sentence)}" for sentence in diagnosis.evidence),
        *(
            f"   step {each.step}, draw {each.draw}, completion {each.completion + 1}: {clean(each.text)}"
            for each in diagnosis.examples
        ),
        "   likely causes:",
        *(f"   {place}) {clean(cause)}" for place, cause in enumerate(diagnosis.causes, start=1)),
        f"   first change: {diagnosis.first_change}",
    ]
    return "\n".join(lines)
