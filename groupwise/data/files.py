"""Rows from local files: JSONL, JSON, CSV, Parquet, and folders written by `datasets`."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groupwise.data.arrow import cleaned_rows
from groupwise.errors import DataError, near_path

FORMATS = (".jsonl", ".json", ".csv", ".parquet")


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
        return reader(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                rows.append(_parse_json(line, f"Line {number} of {path}"))
    return rows


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
