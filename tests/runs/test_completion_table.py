"""The table of completions: on a screen without a terminal, as narrow as it is, and in trackers that take tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from api_helpers import short, trainer
from scored import scored_group

from groupwise.runs.completion_table import CompletionTable
from groupwise.types import Completion, Problem, StepGroup


def half(completions: list[str], **kwargs: Any) -> list[float | None]:
    """A reward that leaves every other completion unscored."""
    return [None if i % 2 else 0.5 for i in range(len(completions))]


def group(number: int, *texts: str) -> StepGroup:
    answers = tuple(Completion((7,), (0.0,), "stop", 0, text=text) for text in texts)
    scored = scored_group(number, Problem(number, f"prompt {number}"), (1,), answers, {"f": (1.0,) * len(texts)})
    return StepGroup.of_scored(scored, advantages=(0.25,) * len(texts))


def test_every_completion_has_a_row_within_the_width() -> None:
    table = CompletionTable.of(3, [group(1, "a\x1b[2Jb", "two\nlines"), group(2, "[bold]c", "word " * 50)])
    assert table.columns == ("prompt", "completion", "f", "advantage")
    assert table.rows[0] == ("prompt 1", "a\x1b[2Jb", 1.0, 0.25)
    lines = table.text(60).splitlines()
    assert {len(line) for line in lines[1:]} == {60}
    text = "\n".join(lines)
    assert text.isascii()
    assert "Step 3" in lines[0]
    for shown in ("ab", "two", "lines", "[bold]c", "prompt 2", "0.250"):
        assert shown in text
    assert text.count("word") == 50, "nothing is left out"


def test_prompts_once_and_some_of_the_rows() -> None:
    table = CompletionTable.of(3, [group(1, "a", "b"), group(2, "c", "d"), group(1, "e", "f")])
    assert [row[1] for row in table.with_unique_prompts().rows] == ["a", "c"]
    assert table.sampled(None) is table
    assert table.sampled(9) is table
    chosen = table.sampled(2).rows
    assert len(chosen) == 2
    assert chosen == table.sampled(2).rows
    assert table.sampled(0).rows == ()


@pytest.mark.parametrize(("num", "shown"), [(None, [4, 4]), (3, [3, 3]), (0, [])])
def test_logged_steps_are_followed_by_their_table(
    tmp_path: Path, num: int | None, shown: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"log_completions": True, "num_completions_to_print": num, "logging_steps": 2}
    run = trainer(tmp_path, rewards=[short, half], max_steps=4, log_unique_prompts=True, **options)
    tables: list[tuple[Any, ...]] = []
    run.trackers.log_table = lambda *table: tables.append(table)
    run.train()
    parts = capsys.readouterr().out.split(" Step ")[1:]
    assert [part.count("|say ") + part.count("| say ") for part in parts] == shown
    assert [(name, list(columns), step) for name, columns, _, step in tables] == [
        ("completions", ["prompt", "completion", "short", "half", "advantage"], step) for step in (2, 4)
    ]
    assert all(len({row[0] for row in rows}) == len(rows) == 2 for _, _, rows, _ in tables)
    assert [row[3] for row in tables[0][2]] == [0.5, 0.5]


def test_nothing_is_shown_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(tmp_path, num_completions_to_print=3).train()
    assert "| prompt" not in capsys.readouterr().out
