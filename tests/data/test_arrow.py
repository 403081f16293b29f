"""Rows from Arrow tables: as they were written, under every format and transform of `datasets`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from groupwise.data import load_problems
from groupwise.data.arrow import cleaned_rows
from groupwise.data.problems import Problems
from groupwise.errors import DataError, RewardError
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.rewards.flat_groups import group_from_completions


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": {"properties": properties}}}


USER = {"role": "user", "content": "go"}
ROWS: list[dict[str, Any]] = [
    {"prompt": [USER, call("move", x=0, y=1), USER], "tools": [schema(x={"type": "int"})], "meta": {"a": [{"b": 1}]}},
    {"prompt": [USER, call("say", text="hi"), USER], "tools": [schema(t={"type": "str"})], "meta": {"a": [{"c": [2]}]}},
    {"prompt": [USER, {"role": "tool", "name": "say", "content": "ok"}], "tools": [], "meta": {}},
    {"prompt": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "tools": None, "meta": None},
    {"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "cite": "b"}]}]},
]
TOOLS, PARTS = ROWS[:3], ROWS[3:]


def as_parquet(rows: list[Any], folder: Path) -> Any:
    datasets.Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def as_saved(rows: list[Any], folder: Path) -> Any:
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    return folder / "saved"


def as_plain_parquet(rows: list[Any], folder: Path) -> Any:
    pq.write_table(pa.Table.from_pylist(rows), folder / "plain.parquet")
    return folder / "plain.parquet"


def as_jsonl(rows: list[Any], folder: Path) -> Any:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


SOURCES: dict[str, Callable[[list[Any], Path], Any]] = {
    "list": lambda rows, folder: rows,
    "JSONL": as_jsonl,
    "Dataset": lambda rows, folder: datasets.Dataset.from_list(rows),
    "DatasetDict": lambda rows, folder: datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}),
    "selected": lambda rows, folder: datasets.Dataset.from_list([rows[0], *rows]).select(range(1, len(rows) + 1)),
    "concatenated": lambda rows, folder: datasets.concatenate_datasets(
        [(data := datasets.Dataset.from_list(rows)).select([0]), data.select(range(1, len(rows)))]
    ),
    "Parquet": as_parquet,
    "Parquet of pyarrow": as_plain_parquet,
    "saved": as_saved,
    "numpy format": lambda rows, folder: datasets.Dataset.from_list(rows).with_format("numpy", columns=["prompt"]),
    "transform": lambda rows, folder: datasets.Dataset.from_list(rows).with_transform(lambda batch: batch),
}


def seen_by_a_reward(problems: Problems) -> list[dict[str, Any]]:
    """The rows as a reward function is given them."""
    seen: list[dict[str, Any]] = []

    def reward(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        seen.append({"prompt": prompts[0]} | {name: kwargs[name][0] for name in problems.column_names})
        return [0.0]

    scorer = RewardScorer(resolve_rewards(reward), problems.column_names)
    for problem in problems:
        scorer.score([group_from_completions(problem.index, problem.prompt, ["x"], None, problem.columns)])
    return seen


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("rows", [TOOLS, PARTS], ids=["tools", "parts"])
def test_every_source_gives_the_rows_that_were_written(source: str, rows: list[Any], tmp_path: Path) -> None:
    problems = load_problems(SOURCES[source](rows, tmp_path))
    names = dict.fromkeys(name for row in rows for name in row)
    expected = [{name: row.get(name) for name in names} for row in rows]
    assert [{"prompt": p.prompt, **p.columns} for p in problems] == expected
    assert seen_by_a_reward(problems) == expected


def test_nulls_that_were_written_stay_where_they_can_be_told() -> None:
    written = [{"prompt": [USER], "answer": None, "list": [None, 1], "meta": {"gold": None}, "of": [{"x": None}, {}]}]
    assert load_problems(written)[0].columns == {name: written[0][name] for name in ("answer", "list", "meta", "of")}
    from_arrow = load_problems(datasets.Dataset.from_list(written))[0]
    assert from_arrow.columns == {"answer": None, "list": [None, 1], "meta": {}, "of": [{}, {}]}


def test_an_argument_that_is_null_stays_in_plain_rows() -> None:
    rows = [{"prompt": [USER, call("say", text=None), USER]}]
    assert load_problems(rows)[0].prompt == rows[0]["prompt"]


def test_content_that_is_null_stays_in_every_message() -> None:
    silent = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    other = call("g", x=1)
    rows = [{"prompt": [USER, silent, USER], "log": [silent]}, {"prompt": [USER, other], "log": [other]}]
    problems = load_problems(datasets.Dataset.from_list(rows))
    assert [problems[0].prompt, problems[0].columns["log"]] == [[USER, silent, USER], [silent]]


MIXED = [
    {"prompt": [USER, call("f", x=1)], "meta": {"x": 1, "y": None}},
    {"prompt": [USER, call("f", x="one", y=None)], "meta": {"x": "one"}},
]


def test_json_columns_hold_what_was_written(tmp_path: Path) -> None:
    features = datasets.Features({"prompt": datasets.Json(), "meta": datasets.Json()})
    data = datasets.Dataset.from_list(MIXED, features=features)
    data.to_parquet(tmp_path / "rows.parquet")
    for source in (data, tmp_path / "rows.parquet", data.with_format("torch")):
        assert [{"prompt": p.prompt, **p.columns} for p in load_problems(source)] == MIXED


def test_maps_and_structs_inside_them_are_cleaned(tmp_path: Path) -> None:
    kind = pa.map_(pa.string(), pa.struct({"a": pa.int64(), "b": pa.int64()}))
    cells = pa.array([[("k", {"a": 1, "b": None}), ("none", None)]], kind)
    assert cleaned_rows(pa.table({"m": cells})) == [{"m": [("k", {"a": 1}), ("none", None)]}]


# --- formats and transforms ---

PLAIN = [{"prompt": f"say {i}", "answer": i, "grid": [[i, 0], [0, i]], "meta": {"gold": i}} for i in range(3)]
CHAT = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in PLAIN]


def data(rows: Sequence[Any] = PLAIN) -> datasets.Dataset:
    return datasets.Dataset.from_list(list(rows))


@pytest.mark.parametrize("rows", [PLAIN, CHAT], ids=["plain", "chat"])
@pytest.mark.parametrize("columns", [None, ["answer"], ["prompt"], ["grid", "prompt"]], ids=str)
@pytest.mark.parametrize("kind", [None, "python", "numpy", "torch", "arrow", "pandas"])
def test_prompts_are_text_under_every_format_and_no_column_is_missing(
    kind: str | None, columns: list[str] | None, rows: list[Any]
) -> None:
    problems = load_problems(data(rows).with_format(kind, columns=columns))
    assert [p.prompt for p in problems] == [row["prompt"] for row in rows]
    assert problems.column_names == ("answer", "grid", "meta")
    assert [int(p.columns["answer"]) for p in problems] == [0, 1, 2]
    assert [np.asarray(p.columns["grid"]).tolist() for p in problems] == [row["grid"] for row in rows]


def test_columns_have_the_type_of_their_format() -> None:
    row = load_problems(data().with_format("torch", columns=["answer", "grid"], dtype=torch.float64))[1].columns
    assert isinstance(row["answer"], torch.Tensor)
    torch.testing.assert_close(row["grid"], torch.eye(2, dtype=torch.float64))
    assert row["meta"] == {"gold": 1}
    assert isinstance(load_problems(data().with_format("numpy"))[1].columns["grid"], np.ndarray)
    assert load_problems(data().with_format("pandas"))[1].columns == {
        k: v for k, v in PLAIN[1].items() if k != "prompt"
    }


def test_a_prompt_can_be_made_by_a_transform_alone() -> None:
    def make(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"prompt": [f"{a} + {a} =" for a in batch["answer"]], "answer": [2 * a for a in batch["answer"]]}

    source = data().remove_columns("prompt")
    for transformed in (source.with_transform(make), source.with_transform(make).select([2, 1, 0]).select([2, 1, 0])):
        problems = load_problems(transformed)
        assert [(p.prompt, p.columns) for p in problems] == [(f"{i} + {i} =", {"answer": 2 * i}) for i in range(3)]
    source.set_transform(make, columns=["answer"], output_all_columns=True)
    problems = load_problems(source)
    assert problems[1].columns == {"answer": 2, "grid": [[1, 0], [0, 1]], "meta": {"gold": 1}}


def test_a_random_transform_is_applied_once_so_that_prompt_and_answer_belong_together() -> None:
    def shuffle(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        numbers = [random.random() for _ in batch["answer"]]
        return {"prompt": [f"repeat {n}" for n in numbers], "answer": numbers}

    problems = load_problems(data().with_transform(shuffle))
    for _ in range(2):
        assert [p.prompt for p in problems] == [f"repeat {p.columns['answer']}" for p in problems]


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (lambda batch: {"prompt": [batch["nothing"][0]]}, r"Row 1 of.*transform.*KeyError: 'nothing'"),
        (lambda batch: "text", r"Row 1 of.*transform.*str"),
        (lambda batch: {"prompt": []}, r"Row 1 of.*transform"),
        (
            lambda batch: {"text": ["a"] * len(batch["answer"])},
            "as its transform gives it, has no column 'prompt'.*text",
        ),
    ],
)
def test_a_transform_that_gives_no_rows_is_named(transform: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"(?is){said}"):
        load_problems(data().with_transform(transform))


def test_a_transform_sees_the_rows_that_were_written() -> None:
    seen: list[Any] = []

    def look(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        seen.extend(batch["prompt"])
        return batch

    load_problems(datasets.Dataset.from_list(TOOLS).with_transform(look))
    assert seen == [row["prompt"] for row in TOOLS]


def test_a_renamed_prompt_is_text_too() -> None:
    source = data().rename_column("prompt", "question").with_format("numpy", columns=["answer"])
    problems = load_problems(source, columns={"prompt": "question"})
    assert [type(p.prompt) for p in problems] == [str] * 3


def test_of_a_stream_the_first_rows_are_read_where_their_number_is_known() -> None:
    stream = datasets.Dataset.from_list(TOOLS).to_iterable_dataset()
    with pytest.raises(DataError, match=r"IterableDataset.*max_steps"):
        load_problems(stream)
    for source in (stream, datasets.IterableDatasetDict(train=stream)):
        taken = load_problems(source, num_streamed=2)
        assert [p.prompt for p in taken] == [row["prompt"] for row in TOOLS[:2]]
        assert taken.info["num_streamed"] == 2


def test_the_users_data_set_keeps_its_format() -> None:
    source = data().with_format("torch", columns=["answer"])
    before = source.format
    load_problems(source)
    assert source.format == before


def test_a_column_that_no_row_has_is_named_under_a_format_too() -> None:
    problems = load_problems(data().with_format("torch"))
    with pytest.raises(RewardError, match='takes "gold"'):
        RewardScorer(resolve_rewards(lambda completions, gold: [0.0]), problems.column_names)
