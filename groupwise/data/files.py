"""Rows from local files: JSONL, JSON, CSV, Parquet, and folders written by `datasets`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from groupwise.data.arrow import cleaned_rows
from groupwise.errors import DataError, near_path
from groupwise.types import row_place

FORMATS = (".jsonl", ".json", ".csv", ".parquet")


class FileRows(list[Mapping[str, Any]]):
    """Rows of a file, with the number of each in the file from 1; `unit` is what is counted, "row" or "line"."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], numbers: Iterable[int], unit: str = "row") -> None:
        super().__init__(rows)
        self.numbers, self.unit = tuple(numbers), unit


def place_of(rows: Sequence[Mapping[str, Any]], index: int) -> str:
    """Where the row of that index, from 0, stands as people count: "row 8", or "line 9" of a JSONL file."""
    return f"{rows.unit} {rows.numbers[index]}" if isinstance(rows, FileRows) else row_place(index)


def place_in(name: str, place: str) -> str:
    """A place of the data set of that name, as a sentence begins with it: "Row 8 of rows.csv"."""
    return f"{place.capitalize()} of {name}"


def take_rows(rows: Sequence[Mapping[str, Any]], indices: Sequence[int]) -> FileRows:
    """Some of the rows, which keep their places."""
    unit, numbers = (rows.unit, rows.numbers) if isinstance(rows, FileRows) else ("row", range(1, len(rows) + 1))
    return FileRows([rows[i] for i in indices], [numbers[i] for i in indices], unit)


def is_path(name: str) -> bool:
    """Whether a data set name means a local file: it exists, or it is spelt like one."""
    path = Path(name).expanduser()
    return (bool(name) and path.exists()) or path.suffix.lower() in FORMATS or name.startswith(("/", "./", "../", "~"))


def find_file(path: Path, split: str) -> Path:
    """The file itself, or in a folder the one named after the split (`train.jsonl`)."""
    if not path.exists():
        where = "" if path.is_absolute() else f" It was looked for beside the recipe and in {Path.cwd()}."
        raise DataError(f"There is no data file {path}.{where}{near_path(path)}")
    if path.is_file() or _is_saved_dataset(path):
        if split != "train":  # a single file must not pass for two splits
            raise DataError(
                f"{path} is one set of rows and has no split {split!r}. Give another file for it, or use slices: "
                f'"train[:90%]" and "train[90%:]".'
            )
        return path
    found = sorted(p for p in path.iterdir() if p.stem == split and p.suffix.lower() in FORMATS)
    saved = path / split
    if len(found) == 1 or _is_saved_dataset(saved):
        return found[0] if found else saved
    names = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
    what = "more than one file" if found else "no file"
    raise DataError(f"The folder {path} has {what} for the split {split!r}; it holds {names}. Expected {split}.jsonl.")


def read_file(path: Path) -> Sequence[Mapping[str, Any]]:
    """All rows of a data file."""
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.is_dir():
        import datasets

        try:
            return datasets.load_from_disk(str(path))  # type: ignore[no-any-return]
        except Exception as error:  # as below
            raise DataError(f"{path} is no data set that datasets could read: {error}") from error
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is not a data file: expected one of {', '.join(FORMATS)}.")
    try:
        return reader(path)  # type: ignore[return-value]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error


def _read_jsonl(path: Path) -> FileRows:
    with path.open(encoding="utf-8-sig") as lines:
        found = {n: _parse_json(line, f"Line {n} of {path}") for n, line in enumerate(lines, start=1) if line.strip()}
    return FileRows(found.values(), found, "line")


def _read_json(path: Path) -> list[dict[str, Any]]:
    """A list of rows, or one list under a single key."""
    value = _parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    if isinstance(value, dict) and len(value) == 1:
        (value,) = value.values()
    if not isinstance(value, list):
        raise DataError(f"{path} holds a {type(value).__name__}, not a list of rows. Write one list of objects.")
    return value


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error}.") from error


def _read_csv(path: Path) -> list[dict[str, Any]]:
    """CSV has no types: every cell is text, so that an answer "007" stays as written."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise DataError(
                f"Row {number} of {path} has {len(row)} cells, its header {len(header)}: {','.join(header)}."
            )
    return [dict(zip(header, row, strict=True)) for row in rows]


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    try:
        return cleaned_rows(pyarrow.parquet.read_table(path))
    except Exception as error:  # a damaged file fails in as many ways as it has bytes
        raise DataError(f"{path} is not a Parquet file: {error}") from error


def _is_saved_dataset(path: Path) -> bool:
    return (path / "dataset_info.json").is_file()
