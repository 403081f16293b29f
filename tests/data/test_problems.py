"""Rows become problems: renamed, checked, and with every column under its own name."""

from __future__ import annotations

from typing import Any

import pytest

from groupwise.data import RESERVED_COLUMNS, Problems
from groupwise.errors import DataError
from groupwise.notes import shown_by

ROWS = [{"prompt": "1 + 1 =", "answer": 2, "level": "easy"}, {"prompt": "2 + 3 =", "answer": 5, "level": "hard"}]
CHAT = [{"role": "user", "content": "1 + 1 ="}]


def test_every_column_but_the_prompt_reaches_the_rewards() -> None:
    problem = Problems(ROWS)[1]
    assert (problem.index, problem.prompt) == (1, "2 + 3 =")
    assert problem.columns == {"answer": 5, "level": "hard"}


def test_problems_are_a_sequence() -> None:
    problems = Problems(ROWS)
    assert [p.index for p in problems] == [0, 1] == [p.index for p in problems[:]]
    assert problems[-1] == problems[1]
    with pytest.raises(IndexError):
        problems[2]


def test_a_column_can_be_renamed() -> None:
    problems = Problems(ROWS, columns={"reference": "answer"})
    assert problems.column_names == ("level", "reference")
    assert problems[0].columns == {"reference": 2, "level": "easy"}


def test_the_prompt_can_be_a_column_of_another_name() -> None:
    problem = Problems([{"question": "Why?", "answer": "Because."}], columns={"prompt": "question"})[0]
    assert problem.prompt == "Why?"
    assert problem.columns == {"answer": "Because."}


def test_a_gold_completion_reaches_the_rewards_when_renamed() -> None:
    said: list[str] = []
    rows = [{"prompt": "a", "completion": "gold"}]
    with shown_by(said.append):
        problems = Problems(rows, columns={"reference": "completion"})
    assert problems[0].columns == {"reference": "gold"}
    assert said == []


def test_two_columns_can_be_swapped() -> None:
    problems = Problems([{"prompt": "p", "answer": "a"}], columns={"prompt": "answer", "answer": "prompt"})
    assert (problems[0].prompt, problems[0].columns) == ("a", {"answer": "p"})


@pytest.mark.parametrize("name", sorted(RESERVED_COLUMNS))
def test_a_column_that_clashes_is_dropped_and_reported_once(name: str) -> None:
    said: list[str] = []
    with shown_by(said.append):
        problems = Problems([{**row, name: "x"} for row in ROWS])
    assert [dict(p.columns) for p in problems] == [{"answer": 2, "level": "easy"}, {"answer": 5, "level": "hard"}]
    assert problems.dropped_columns == (name,)
    assert len(said) == 1
    assert f"columns: {{reference: {name}}}" in said[0]


def test_a_cell_that_a_row_lacks_is_none() -> None:
    problems = Problems([{"prompt": "a", "answer": 1}, {"prompt": "b", "hint": "h"}])
    assert [p.columns for p in problems] == [{"answer": 1, "hint": None}, {"answer": None, "hint": "h"}]


def test_a_prompt_is_a_copy() -> None:
    problems = Problems([{"prompt": CHAT}])
    prompt = problems[0].prompt
    assert isinstance(prompt, list)
    prompt[0]["content"] = prompt[0]["role"] = "changed"
    assert problems[0].prompt == CHAT


def test_keys_that_arrow_filled_with_none_are_gone() -> None:
    problems = Problems([{"prompt": [{**CHAT[0], "tool_calls": None}]}])
    assert problems[0].prompt == CHAT


def test_fingerprint_follows_the_prompts() -> None:
    first, same, other = (Problems(rows).info["fingerprint"] for rows in (ROWS, list(ROWS), ROWS[::-1]))
    assert first == same != other


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("  \n", "the prompt is empty"),
        ([], "the prompt is empty"),
        ([{"role": "user", "content": ""}], "the prompt is empty"),
        (None, "the row has no q; it has: nothing"),
        (17, "not int"),
        ({"role": "user", "content": "x"}, "not dict"),
        (["hello"], "a message looks like"),
        ([{"content": "hello"}], "a message looks like"),
        ([{"role": "user"}], "a message looks like"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(prompt: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=rf"Row 2 of data, column 'q': .*{complaint}"):
        Problems([{"q": "fine"}, {"q": prompt}], columns={"prompt": "q"})


def test_no_rows_is_an_error() -> None:
    with pytest.raises(DataError, match="is empty"):
        Problems([])


def test_a_row_that_is_no_mapping_is_named() -> None:
    with pytest.raises(DataError, match="Row 2 of data is a str"):
        Problems([{"prompt": "a"}, "b"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"question": "a", "answer": 1}, {}, r"no column 'prompt'; it has: question, answer\..*prompt: question"),
        ({"promt": "a"}, {}, 'Did you mean "promt"'),
        ({"prompt": "a", "answer": 1}, {"reference": "anwser"}, "no column 'anwser'. Did you mean \"answer\""),
        ({"prompt": "a", "answer": 1}, {"reference": "zzz"}, r"It has: prompt, answer\."),
        ({"prompt": "a", "answer": 1}, {"completions": "answer"}, "a name the trainer uses itself"),
        ({"prompt": "a", "answer": 1}, {"prompt": "answer"}, "already has a column 'prompt'"),
        ({"prompt": "a"}, {"text": "prompt"}, "no column 'prompt'"),
    ],
)
def test_wrong_columns_are_explained(row: dict[str, Any], columns: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Problems([row], columns=columns)
