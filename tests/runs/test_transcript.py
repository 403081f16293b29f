"""A completion of several turns as people read it: in the report, on the screen, in a log."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from groupwise.runs import RunWriter, create
from groupwise.runs.plain_screen import PlainScreen
from groupwise.runs.progress import typical_sample
from groupwise.runs.reader import RunReader
from groupwise.runs.transcript import transcript_of, transcript_of_record
from groupwise.types import Call, Completion, Turn

from .synthetic import SUMMARY, make_groups, make_metrics

CALLS = (Call("add", {"a": 1}, seconds=0.1), Call("", error="not JSON"))
SAID = (
    {"role": "assistant", "content": "let me add"},
    {"role": "tool", "name": "add", "content": "3"},
    {"role": "assistant", "content": "three"},
)
TURNS = (Turn(0, 4, "stop", calls=CALLS, is_cut=True), Turn(6, 9, "length", reward=0.5))
PLAYED = Completion((1,) * 9, (-1.0,) * 9, "length", 0, text="three", turns=TURNS, messages=SAID)
SHOWN = (
    "policy, turn 1, call of add, call of no name failed (not JSON), its answer shortened: let me add\n"
    "tool: 3\n"
    "policy, turn 2, reward 0.500, cut off: three"
)
METRICS = {"environment/turns/mean": 1.75, "tools/call_frequency": 0.5}


def played(step: int) -> Any:
    return [replace(group, completions=(PLAYED,) * 4) for group in make_groups(step)]


def test_a_transcript_has_turns_calls_answers_and_rewards() -> None:
    assert transcript_of(PLAYED) == SHOWN
    assert transcript_of(replace(PLAYED, turns=())) == "three"


def test_the_record_shows_the_same(tmp_path: Any) -> None:
    folder = create(tmp_path / "run")
    with RunWriter(folder) as writer:
        writer.completions(1, played(1))
    (first, *_) = RunReader(folder).completions(1)
    assert transcript_of_record(first["completions"][0]) == SHOWN
    assert transcript_of_record({**first["completions"][0], "turns": []}) == "three"


def test_a_log_names_turns_and_calls_only_where_there_are_some() -> None:
    for more, shown in (({}, False), (METRICS, True)):
        stream = io.StringIO()
        screen = PlainScreen(stream)
        screen.start(SUMMARY)
        screen.step({**make_metrics(1, make_groups(1)), **more}, make_groups(1))
        assert ("turns 1.75  calls 0.500" in stream.getvalue()) == shown


def test_the_sample_of_the_screen_is_a_transcript() -> None:
    sample = typical_sample(played(1))
    assert sample is not None
    assert sample.text == SHOWN
