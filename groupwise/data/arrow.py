"""Rows that lie in Arrow tables: a `datasets.Dataset` under any format or transform, a Parquet file.

The values of a struct in Arrow all have the same keys: a row that lacks one gets it with a null. Such nulls are taken
out again wherever a struct is, so that a row is what was written. A null that was written in a struct looks the same,
and goes too. A cell, an item of a list and the `content` of a message keep theirs, and a JSON column is untouched.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

from groupwise.errors import DataError

Clean = Callable[[Any], Any]

_CELLS = 100
"""Cells of a column that are held at once: pictures are large."""

_TABLES = ("arrow", "pandas", "polars")
"""Formats whose rows are tables of their own; these are read as plain Python values."""


class ArrowRows(Sequence[Mapping[str, Any]]):
    """The rows of a `datasets.Dataset`; a format gives its types to the columns it names, and hides no other.

    `as_text` names the column of the prompts, which no format changes.
    """

    def __init__(self, data: Any, as_text: str | None = None) -> None:
        self._data, self.column_names = data, list(data.column_names)
        self._rows = _formatted(data, as_text)
        self._clean = _cleaners(data.features.arrow_schema)

    def with_text(self, column: str) -> ArrowRows:
        """The same rows with that column in Python's own types."""
        return ArrowRows(self._data, column)

    def column(self, name: str) -> Iterator[Any]:
        """The cells of one column in Python's own types, read without decoding the others."""
        clean = self._clean.get(name, _as_it_is)
        return (clean(row[name]) for row in self._data.with_format(None).select_columns([name]))

    def filled(self, name: str) -> Iterator[bool]:
        """Whether each cell of one column holds something, read without decoding it."""
        for batch in self._data.with_format("arrow").select_columns([name]).iter(_CELLS):
            for cell in batch.column(0):
                is_list = hasattr(cell, "values") and cell.is_valid
                yield cell.is_valid and not (is_list and len(cell) == 0)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Mapping[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return {name: self._clean.get(name, _as_it_is)(value) for name, value in self._rows[index].items()}


def readable(rows: Any, name: str) -> Sequence[Mapping[str, Any]]:
    """A `datasets.Dataset` as rows; anything else as it is.

    A transform is applied once to every row, here: its prompts are encoded before the first step, and one that draws
    at random must not give another answer later on.

    Raises:
        DataError: the transform fails at a row.
    """
    datasets = sys.modules.get("datasets")  # if it was never imported, this is none of its objects
    if datasets is None or not isinstance(rows, datasets.Dataset):
        return rows  # type: ignore[no-any-return]
    if rows.format["type"] != "custom":
        return ArrowRows(rows)
    return [_transformed(rows.format, row, f"Row {i} of {name}") for i, row in enumerate(ArrowRows(rows), start=1)]


def cleaned_rows(table: Any) -> list[dict[str, Any]]:
    """The rows of a `pyarrow.Table`, with JSON columns decoded."""
    clean = _cleaners(table.schema, decode=json.loads)
    return [{name: clean.get(name, _as_it_is)(value) for name, value in row.items()} for row in table.to_pylist()]


def _formatted(data: Any, as_text: str | None) -> Any:
    """The data set in its own format, in which every column is seen and that of the prompts stays Python."""
    form = data.format
    if form["type"] is None or form["type"] in (*_TABLES, "custom"):
        return data.with_format(None)
    columns = [name for name in form["columns"] if name != as_text]
    return data.with_format(form["type"], columns=columns, output_all_columns=True, **form["format_kwargs"])


def _transformed(form: Mapping[str, Any], row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """What the user's transform makes of one row."""
    batch = {name: [row[name]] for name in form["columns"]}
    try:
        made = {name: values[0] for name, values in form["format_kwargs"]["transform"](batch).items()}
    except Exception as error:  # the user's own code
        raise DataError(
            f"{where}: its transform (with_transform, set_transform) fails: {type(error).__name__}: {error}. It is "
            "given a dict of lists with one value each, and has to return one."
        ) from error
    others = {name: value for name, value in row.items() if name not in form["columns"]}
    return {**made, **(others if form["output_all_columns"] else {})}


def _as_it_is(value: Any) -> Any:
    return value


def _cleaners(schema: Any, decode: Clean = _as_it_is) -> dict[str, Clean]:
    """Column name -> what takes Arrow's nulls out of its cells, where it can have any."""
    found = {field.name: _cleaner(field.type, decode) for field in schema}
    return {name: clean for name, clean in found.items() if clean is not None}


def _cleaner(kind: Any, decode: Clean) -> Clean | None:
    """The same for a value of an Arrow type; None where there is nothing to do."""
    from pyarrow import BaseExtensionType, types

    if isinstance(kind, BaseExtensionType):
        is_json = kind.extension_name == "arrow.json" and decode is not _as_it_is
        return (lambda text: None if text is None else decode(text)) if is_json else None
    if types.is_struct(kind):
        return _of_struct({field.name: _cleaner(field.type, decode) for field in kind})
    if types.is_map(kind):
        inner = _cleaner(kind.item_type, decode)
        return None if inner is None else lambda pairs: pairs and [(key, inner(value)) for key, value in pairs]
    return _of_list(_cleaner(kind.value_type, decode)) if hasattr(kind, "value_type") else None


def _of_struct(inner: Mapping[str, Clean | None]) -> Clean:
    def clean(value: Any) -> Any:
        if not isinstance(value, dict):  # a null, or what a feature has decoded into an object of its own
            return value
        is_message = "role" in value
        return {
            key: _as_it_is(item) if (then := inner.get(key)) is None else then(item)
            for key, item in value.items()
            if item is not None or (is_message and key == "content")
        }

    return clean


def _of_list(inner: Clean | None) -> Clean | None:
    if inner is None:
        return None

    def clean(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [inner(item) for item in value]
        if getattr(value, "dtype", None) == "object":  # numpy's list of structs
            for i, item in enumerate(value):
                value[i] = inner(item)
        return value

    return clean
