"""`groupwise reward`: completions of a file, scored as the recipe would, and why."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from groupwise import cli
from groupwise.offline import read_groups
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.runs.records import group_record
from groupwise.types import StepGroup

from .groups import CHAT, make_group

RECIPE = """
data: python-docs
rewards:
  - {name: number, weight: 2}
  - {name: length, target: 4, clip: [-4, 0], normalise: range, when: {number: 1}, weight: 0.5}
  - "mine.py:polite"
"""
MINE = """
def polite(completions, log_extra):
    log_extra("words", [len(text.split()) for text in completions])
    return [None if not text else float("please" in text) for text in completions]
"""
ROWS = [
    {"prompt": "1 + 1?", "completion": "2", "answer": "2"},
    {"prompt": "1 + 1?", "completion": "3 please", "answer": "2"},
    {"prompt": "2 + 2?", "completion": "", "answer": "4"},
    {"prompt": "2 + 2?", "completion": "4", "answer": None},
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments):
    return CliRunner().invoke(cli.app, ["reward", *map(str, arguments)])


def error(*arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["reward", *map(str, arguments)])
    assert stopped.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_json_has_what_was_returned_what_counted_and_why(folder):
    result = run("recipe.yaml", "--completions", "rows.jsonl", "--json")
    assert result.exit_code == 0, result.output
    first, second, third, fourth = map(json.loads, result.output.splitlines())
    assert first["rewards"] == {"number": 1, "length": -3, "polite": 0}
    assert first["counted"] == {"number": 1, "length": 0.25, "polite": 0}
    assert first["reward"] == 2 * 1 + 0.5 * 0.25 + 0
    assert first["why"] == {"number": "2 is 2"}
    assert first["extra"] == {"words": 1}
    assert (second["counted"]["length"], second["reward"]) == (0, 1)
    assert third["rewards"]["polite"] is None
    assert fourth["counted"] == {"number": None, "length": None, "polite": 0}
    assert [each["number"] for each in (first, second, third, fourth)] == [1, 2, 3, 4]


def test_the_table_shows_each_function_and_a_summary(folder):
    lines = run("recipe.yaml", "--completions", "rows.jsonl", "--num", 2).output.splitlines()
    assert lines[0].split() == ["1", "reward", "2.125", "'2'"]
    assert lines[1].split() == ["number", "1", "x", "2", "2", "is", "2"]
    assert lines[2].split() == ["length", "-3", "x", "0.5", "counts", "0.25"]
    assert lines[3].split() == ["polite", "0", "x", "1"]
    assert lines[8] == "... 2 more (--num 0 shows all)"
    assert lines[-4].split() == ["number", "0.3333", "0.4714", "0", "1", "1"]
    assert lines[-1].split()[0] == "reward"
    assert len(run("recipe.yaml", "--completions", "rows.jsonl", "--num", 0).output.splitlines()) == 4 * 4 + 6


def test_a_completion_that_nothing_could_score_is_exit_code_1(folder):
    write(folder / "rows.jsonl", [{"completion": "", "answer": None}])
    result = run("recipe.yaml", "--completions", "rows.jsonl", "--json")
    assert json.loads(result.output)["reward"] is None
    assert result.exit_code == 1


def test_a_recipe_can_be_changed_on_the_way(folder):
    result = run("recipe.yaml", "--completions", "rows.jsonl", "--json", "--set", "rewards=[number]")
    assert json.loads(result.output.splitlines()[1])["rewards"] == {"number": 0}


def test_what_a_run_recorded_is_scored_again_as_it_was(folder):
    """The records of scored groups, read back, get the same rewards; a run folder gives its last step."""
    specs = ["number", {"name": "length", "unit": "tokens", "target": 2, "normalise": "group"}]
    groups = [make_group(prompt, ["2", "so it is 3"], draw, answer="2") for draw, prompt in enumerate(["1 + 1?", CHAT])]
    scored = RewardScorer(resolve_rewards(specs)).score(groups).groups
    run_folder = folder / "run"
    (run_folder / "completions").mkdir(parents=True)
    write(run_folder / "completions" / "step-000001.jsonl", [{"torn": True}])
    records = [group_record(StepGroup.of_scored(group), 1) for group in scored]
    write(run_folder / "completions" / "step-000002.jsonl", records)
    again = list(read_groups(run_folder))
    assert [group.problem.prompt for group in again] == ["1 + 1?", CHAT]
    assert [g.shaped for g in RewardScorer(resolve_rewards(specs)).score(again).groups] == [g.shaped for g in scored]


def test_simple_rows_of_one_problem_are_one_group(folder):
    rows = [
        *ROWS,
        {"prompt": "p", "completions": ["a", "b"]},
        {"prompt": "p", "completion": "c"},
        {"completion": [{"role": "assistant", "content": "d"}], "completion_ids": [1, 2]},
    ]
    groups = list(read_groups(write(folder / "more.jsonl", rows)))
    texts = [[completion.text for completion in group.completions] for group in groups]
    assert texts == [["2", "3 please"], [""], ["4"], ["a", "b"], ["c"], ["d"]]
    assert groups[-1].completions[0].token_ids == (1, 2)
    assert groups[-1].problem.prompt == []
    assert groups[0].problem.columns == {"answer": "2"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", '"rows.jsonl", line 1 is not JSON'),
        ("3", "line 1 is not a JSON object"),
        ('{"text": "a"}', "line 1 has no completion that is text or a list of messages"),
        ('{"completion": 3}', "line 1 has no completion"),
        ('{"completions": []}', "line 1 has no completion"),
        ('{"completion": "a", "prompt": 3}', "line 1: its prompt is neither text nor a list of messages"),
        ('{"completion": "a", "completion_ids": ["x"]}', "line 1: its completion_ids are not"),
        ("\n\n", "holds no completions"),
        ('{"completion": "a"}', '"number" takes "answer", and the data set has no such column'),
    ],
)
def test_files_that_cannot_be_scored_say_what_is_wrong(folder, content, message, capsys):
    (folder / "rows.jsonl").write_text(content + "\n")
    assert message in error("recipe.yaml", "--completions", "rows.jsonl", capsys=capsys)


def test_a_file_or_folder_that_is_not_there_is_told(folder, capsys):
    assert 'no file "none.jsonl"' in error("recipe.yaml", "--completions", "none.jsonl", capsys=capsys)
    assert "without recorded completions" in error("recipe.yaml", "--completions", folder, capsys=capsys)


def test_a_task_brings_its_rewards_and_fetches_no_data(folder):
    (folder / "task.yaml").write_text("task: gsm8k\nrewards: [{name: format, when: {gsm8k: 1}}]\n")
    write(folder / "rows.jsonl", [{"completion": "48 + 24 = 72 <answer>72</answer>", "answer": "72"}])
    result = run("task.yaml", "--completions", "rows.jsonl", "--json")
    assert json.loads(result.output)["rewards"] == {"gsm8k": 1, "format": 0}


def test_an_answer_that_is_no_single_number_is_an_error_with_its_row(folder, capsys):
    write(folder / "rows.jsonl", [*ROWS[:2], {"prompt": "3?", "completion": "10", "answer": "2^{10}"}])
    assert "line 3: Reward number: the data set's answer '2^{10}'" in error(
        "recipe.yaml", "--completions", "rows.jsonl", capsys=capsys
    )
