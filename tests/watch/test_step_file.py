"""The file of a step is read a line at a time, its groups by their place, and nothing outside the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from groupwise.runs import RunReader, open_run
from groupwise.watch.step_file import OutsideError, StepFile, rows, shown


def with_rewards(*rewards: dict[str, float | None]) -> dict[str, Any]:
    completions = [
        {"text": str(i), "ids": [1, 2], "stop_reason": "stop", "rewards": of, "reward": sum(filter(None, of.values()))}
        for i, of in enumerate(rewards)
    ]
    return {"prompt": "Question", "problem": 4, "draw": 1, "completions": completions}


def test_rows_are_what_the_reader_reads(run: Path) -> None:
    found = rows(StepFile(open_run(run), "completions", 2).groups())
    for row, group in zip(found, RunReader(run).completions(2), strict=True):
        assert row["rewards"] == [completion["reward"] for completion in group["completions"]]
        assert row["lengths"] == [len(completion["ids"]) for completion in group["completions"]]
        assert row["functions"]["format"] == [0.5] * 4
        assert (row["draw"], row["problem"], row["place"]) == (
            group["draw"],
            group["problem"],
            f"row {group['problem'] + 1}",
        )
        assert "ids" not in json.dumps(row)


def test_a_group_is_found_at_its_place_and_nowhere_else(run: Path) -> None:
    file = StepFile(open_run(run), "completions", 3)
    places = [place for place, _ in file.groups()]
    assert [file.group_at(place) for place in places] == RunReader(run).completions(3)
    assert file.group_at(places[1] + 1) is None
    assert file.group_at(10**30) is None


def test_only_the_asked_for_completions_are_shown_and_without_ids(run: Path) -> None:
    group = StepFile(open_run(run), "completions", 1).group_at(0)
    assert group is not None
    found = shown(group, 1, 2)
    assert [completion["number"] for completion in found["completions"]] == [1, 2]
    assert found["num_completions"] == 4
    assert "ids" not in found["completions"][0]
    assert "prompt_ids" not in found
    assert [message["role"] for message in found["prompt"]] == ["system", "user"]


def test_a_damaged_line_leaves_the_others(run: Path) -> None:
    file = StepFile(open_run(run), "completions", 1)
    first, second = file.path.read_bytes().splitlines(keepends=True)
    file.path.write_bytes(first + b"{torn\n" + second + b'{"schema_version": 2, "dra')
    assert [row["problem"] for row in rows(file.groups())] == [0, 1]


def test_functions_that_disagree_stand_out() -> None:
    group = with_rewards({"a": 0, "b": 0}, {"a": 0, "b": 0}, {"a": 1, "b": 1}, {"a": 1, "b": 0})
    (row,) = rows([(0, group)])
    assert row["conflict"].index(max(row["conflict"])) == 3
    assert rows([(0, with_rewards({"a": 0, "b": 1}, {"a": 1, "b": 1}))])[0]["conflict"] == [None, None]
    assert rows([(0, with_rewards({"a": 0, "b": None}, {"a": None, "b": 1}))])[0]["conflict"] == [None, None]


def test_a_length_counts_what_was_sampled() -> None:
    group = with_rewards({"a": 0})
    group["completions"][0] |= {"ids": [1] * 9, "turns": [{"start": 0, "end": 3}, {"start": 6, "end": 9}]}
    assert rows([(0, group)])[0]["lengths"] == [6]


def test_held_out_groups_need_less(run: Path) -> None:
    (run / "evaluations").mkdir()
    line = {"schema_version": 2, **with_rewards({"a": 0}), "answer": "4", "kind": "greedy"}
    del line["draw"]
    (run / "evaluations" / "step-000002.jsonl").write_text(json.dumps(line) + "\n" + '{"schema_version": 2}\n')
    (row,) = rows(StepFile(open_run(run), "evaluations", 2).groups())
    assert (row["kind"], row["draw"], row["is_used"]) == ("greedy", None, True)


def test_a_link_out_of_the_folder_is_not_followed(run: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text("{}\n")
    (run / "completions" / "step-000099.jsonl").symlink_to(secret)
    with pytest.raises(OutsideError, match="leads out of the run folder"):
        StepFile(open_run(run), "completions", 99)
