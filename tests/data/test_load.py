"""The same rows come out of every kind of data set, and what cannot be used is refused with a sentence."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from groupwise.data import load_problems
from groupwise.data.load import load_held_out
from groupwise.errors import DataError

ROWS = [{"prompt": f"Question {i}?", "answer": f"00{i}"} for i in range(10)]


def write_jsonl(path: Path) -> None:
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8")


def write_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS), encoding="utf-8")


def write_json_under_a_key(path: Path) -> None:
    path.write_text(json.dumps({"data": ROWS}), encoding="utf-8")


def write_csv(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["prompt", "answer"])
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path: Path) -> None:
    datasets.Dataset.from_list(ROWS).to_parquet(path)


def read(data: Any, **options: Any) -> list[dict[str, Any]]:
    return [{"prompt": p.prompt, **p.columns} for p in load_problems(data, **options)]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.jsonl", write_jsonl),
        ("rows.json", write_json),
        ("rows.json", write_json_under_a_key),
        ("rows.csv", write_csv),
        ("rows.parquet", write_parquet),
    ],
)
def test_local_files_give_their_rows(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    assert read(tmp_path / name) == ROWS == read(str(tmp_path / name))


@pytest.mark.parametrize(
    "data", [ROWS, tuple(ROWS), datasets.Dataset.from_list(ROWS)], ids=["list", "tuple", "Dataset"]
)
def test_python_objects_give_their_rows(data: Any) -> None:
    assert read(data) == ROWS


def test_problems_are_taken_as_they_are() -> None:
    problems = load_problems(ROWS)
    assert load_problems(problems) is problems


def test_a_folder_holds_one_file_a_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl")
    write_csv(tmp_path / "test.csv")
    (tmp_path / "README.md").write_text("about")
    assert read(tmp_path) == read(tmp_path, split="test") == ROWS
    with pytest.raises(DataError, match=r"no file for the split 'eval'; it holds README\.md, test\.csv, train\.jsonl"):
        read(tmp_path, split="eval")


def test_a_saved_dataset_is_read(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    assert read(tmp_path / "saved") == read(tmp_path / "splits") == ROWS


def test_messages_survive_arrow() -> None:
    chat = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1 + 1"}]
    assert read(datasets.Dataset.from_list([{"prompt": chat}])) == [{"prompt": chat}]


@pytest.mark.parametrize(
    ("split", "rows"),
    [
        ("train[:3]", ROWS[:3]),
        ("[8:]", ROWS[8:]),
        ("[2:5]", ROWS[2:5]),
        ("train[:25%]", ROWS[:2]),
        ("train[25%:]", ROWS[2:]),
        ("train", ROWS),
        ("[5:99]", ROWS[5:]),
    ],
)
def test_a_split_can_be_a_slice(tmp_path: Path, split: str, rows: list[Any]) -> None:
    write_jsonl(tmp_path / "rows.jsonl")
    assert read(tmp_path / "rows.jsonl", split=split) == read(ROWS, split=split) == rows
    assert read(datasets.Dataset.from_list(ROWS), split=split) == rows
    assert read(datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}), split=split) == rows


@pytest.mark.parametrize("split", ["train[1:2:3]", "train[-3:]", "a b", "[a:]"])
def test_a_split_that_is_none_is_refused(split: str) -> None:
    with pytest.raises(DataError, match="is no split"):
        load_problems(ROWS, split=split)


def test_an_empty_slice_is_refused() -> None:
    with pytest.raises(DataError, match="holds none of its 10 rows"):
        load_problems(ROWS, split="[10:]")


def test_a_missing_split_lists_those_there_are() -> None:
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS)})
    with pytest.raises(DataError, match=r"no split 'tset'; it has: train, test\. Did you mean \"test\""):
        load_problems(splits, split="tset")


@pytest.mark.parametrize("data", [ROWS, datasets.Dataset.from_list(ROWS)], ids=["list", "Dataset"])
def test_rows_without_splits_do_not_pass_for_two(tmp_path: Path, data: Any) -> None:
    write_jsonl(tmp_path / "rows.jsonl")
    for source in (data, tmp_path / "rows.jsonl"):
        with pytest.raises(DataError, match="has no split 'test'"):
            load_problems(source, split="test[:50%]")


def test_a_hub_id_asks_the_hub_for_exactly_that(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*args: Any, **kwargs: Any) -> datasets.Dataset:
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read("owner/name", split="test[:50%]", subset="main", revision="abc") == ROWS
    assert read("owner/name") == ROWS
    assert asked == [
        (("owner/name", "main"), {"split": "test[:50%]", "revision": "abc"}),
        (("owner/name", None), {"split": "train", "revision": None}),
    ]


@pytest.mark.parametrize("error", [ValueError("Unknown split"), ConnectionError("retry")])
def test_what_the_hub_says_is_passed_on(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load_dataset(*args: Any, **kwargs: Any) -> datasets.Dataset:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=rf"'python-doc'.*({error}|Hub is switched off).*Did you mean \"python-docs\""):
        load_problems("python-doc")


def test_streams_are_refused() -> None:
    stream = datasets.Dataset.from_list(ROWS).to_iterable_dataset()
    with pytest.raises(DataError, match="streaming=True"):
        load_problems(stream)


def test_data_frames_are_refused() -> None:
    with pytest.raises(DataError, match='to_dict\\("records"\\)'):
        load_problems(datasets.Dataset.from_list(ROWS).to_pandas())


@pytest.mark.parametrize("data", [17, {"prompt": ["a"]}, None, iter(ROWS)])
def test_other_objects_are_refused(data: Any) -> None:
    with pytest.raises(DataError, match=r"Cannot use a .* as data\. Expected a packaged name \(python-docs\)"):
        load_problems(data)


@pytest.mark.parametrize("name", ["not there.jsonl", "./nowhere", "rows.CSV"])
def test_a_missing_file_is_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(DataError, match="There is no data file"):
        load_problems(name)


@pytest.mark.parametrize("name", ["https://example.com/rows", "a/b/c", ""])
def test_a_name_that_means_nothing_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="is no data set"):
        load_problems(name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": ', "Line 2 of .*a.jsonl is not JSON"),
        ("a.jsonl", b'{"prompt": "a"}\n[1]\n', "Line 2 of .*a.jsonl is a list"),
        ("a.json", b'"text"', "holds a str, not a list of rows"),
        ("a.json", b"{", "is not JSON"),
        ("a.csv", b"prompt,answer\na,1\nb\n", "Row 2 of .*a.csv has 1 cells, its header 2: prompt,answer"),
        ("a.csv", b"prompt,answer\na,1,2\n", "Row 1 of .*a.csv has 3 cells, its header 2"),
        ("a.csv", b"prompt\n", "is empty"),
        ("a.jsonl", b"", "is empty"),
        ("a.parquet", b"no parquet", "is not a Parquet file"),
        ("a.jsonl", b'{"prompt": "\xff"}', "is not UTF-8"),
        ("a.txt", b"hello", "is not a data file"),
    ],
)
def test_a_damaged_file_is_explained(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_problems(tmp_path / name)


def test_hub_options_are_refused_elsewhere() -> None:
    with pytest.raises(DataError, match="subset and revision are for data sets on the Hub"):
        load_problems(ROWS, subset="main")


def test_info_says_where_the_rows_come_from(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path)
    info = load_problems(path, split="[:4]").info
    assert (info["name"], info["num_rows"], info["split"], info["file"]) == (str(path), 4, "[:4]", str(path))


def test_a_row_is_named_with_its_data_set(tmp_path: Path) -> None:
    """A message names the data set of a row, training or held-out, and a file by its name."""
    path = tmp_path / "held-out.jsonl"
    write_jsonl(path)
    assert load_problems(path)[0].label == f"line 1 of {path}"
    assert load_problems(ROWS)[0].label == "row 1 of the data"
    assert load_held_out(ROWS)[""][0].label == "row 1 of the evaluation data"
    assert load_held_out({"hard": str(path)})["hard"][0].label == f"line 1 of {path}"


def test_a_row_without_a_prompt_is_told_what_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n{"promt": "c", "answer": "d"}\n')
    said = r"^Line 2 of .*rows.jsonl, column 'prompt': the row has no prompt; it has: promt, answer. Did you mean"
    with pytest.raises(DataError, match=rf'{said} "promt"\?'):
        load_problems(path)


@pytest.mark.parametrize("column", ["promt", "Prompt", "prompts", "pormpt", "question"])
def test_a_data_set_without_prompts_is_asked_for_what_was_meant(column: str) -> None:
    with pytest.raises(DataError, match=rf"has no column 'prompt'.*(Did you mean \"{column}\"|called '{column}')\?"):
        load_problems([{column: "a", "answer": "b"}])


def test_rows_are_counted_as_a_reader_of_the_file_counts_them(tmp_path: Path) -> None:
    """From 1, blank lines and what a slice leaves out too; `index` stays the place among the rows that are used."""
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.csv"
    lines.write_text('{"prompt": "a"}\n\n{"prompt": "b"}\n{"prompt": "c"}\n')
    table.write_text("prompt\na\nb\nc\n")
    assert [(p.index, p.place) for p in load_problems(lines)] == [(0, "line 1"), (1, "line 3"), (2, "line 4")]
    assert [(p.index, p.label) for p in load_problems(lines, split="[2:]")] == [(0, f"line 4 of {lines}")]
    assert [(p.index, p.place) for p in load_problems(table, split="[1:]")] == [(0, "row 2"), (1, "row 3")]
    lines.write_text('{"prompt": "a"}\n\n{"prompt": ""}\n')
    with pytest.raises(DataError, match=r"^Line 3 of .*rows.jsonl, column 'prompt': the prompt is empty"):
        load_problems(lines)
