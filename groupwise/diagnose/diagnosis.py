"""A diagnosis of a run: symptom, evidence, likely causes, the first change, how sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from groupwise.diagnose.run_view import RunView
from groupwise.runs.records import CompletionRecord, GroupRecord
from groupwise.runs.transcript import transcript_of_record

Certainty = Literal["certain", "likely", "possible"]
"""certain: the records show it. likely: they show its effect. possible: something else may look the same."""

CERTAINTIES = get_args(Certainty)
MAX_TEXT = 600
"""Characters of an example; the run folder has the rest."""


@dataclass(frozen=True, slots=True)
class Example:
    """A completion that shows a symptom."""

    step: int
    draw: int
    completion: int
    """Its place in the group, from 0."""
    text: str
    """Its reward, then what the policy wrote."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that is wrong with a run."""

    name: str
    """Short and lasting, for tests and for docs/doctor.md."""
    symptom: str
    first_step: int
    """The first step of those that show it."""
    last_step: int
    evidence: tuple[str, ...]
    """Sentences with numbers and their steps."""
    examples: tuple[Example, ...]
    """Two completions, where completions show it."""
    causes: tuple[str, ...]
    """The likeliest first."""
    first_change: str
    certainty: Certainty


@dataclass(frozen=True, slots=True)
class Sign:
    """One thing that the doctor looks for; docs/doctor.md is made of these."""

    name: str
    find: Callable[[RunView], Diagnosis | None]
    symptom: str
    """What it looks like in the records."""
    bound: str
    """From which value on it is found."""
    reason: str
    """Why that bound."""


def example(step: int, group: GroupRecord, index: int) -> Example:
    """The completion of that place in its group."""
    completion = group["completions"][index]
    return Example(step, group["draw"], index, f"reward {_reward(completion)}: {_short(completion)}")


def examples_of(found: Sequence[tuple[int, GroupRecord, int]]) -> tuple[Example, ...]:
    """Two of the completions at these places, of different groups where there are such."""
    if not found:
        return ()
    first = found[0]
    second = next((each for each in reversed(found) if each[1]["draw"] != first[1]["draw"]), found[-1])
    return tuple(example(*each) for each in ((first, second) if second is not first else (first,)))


def _reward(completion: CompletionRecord) -> str:
    reward = completion["reward"]
    return "none" if reward is None else f"{reward:.4g}"


def _short(completion: CompletionRecord) -> str:
    text = transcript_of_record(completion).strip()
    return (text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …") or "(empty)"
