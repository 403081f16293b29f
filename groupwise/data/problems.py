"""Problems: the rows of a data set as the trainer sees them, checked once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from groupwise.data.arrow import ArrowRows, readable
from groupwise.data.files import place_in, place_of
from groupwise.errors import DataError, did_you_mean, near_column
from groupwise.json_values import as_text
from groupwise.types import REWARD_KEYWORDS, Problem, Prompt

RESERVED_COLUMNS = frozenset({"completion", *REWARD_KEYWORDS})
"""Keywords that a reward function gets from the trainer; a column of such a name cannot reach it."""

MEDIA_COLUMNS = ("image", "images")
"""Columns whose content the ecosystem's trainers give to the model beside the prompt."""

_NO_PROMPT: Prompt = [{"role": "user", "content": ""}]
"""What an environment writes its problem into where the data has no prompts."""

_USUAL_PROMPT_COLUMNS = ("messages", "question", "query", "instruction", "problem", "input", "text")

_log = logging.getLogger(__name__)


class Problems(Sequence[Problem]):
    """Indexable rows; every column but the prompt and the reserved ones reaches the rewards under its own name.

    `rows` is any sequence of mappings: a list of dicts, a `datasets.Dataset`. `columns` renames: new name -> the data
    set's own name. `info` holds the origin of the rows, for the record of the run. `source` is what messages about a
    problem call the data set.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        name: str = "data",
        columns: Mapping[str, str] | None = None,
        info: Mapping[str, Any] | None = None,
        is_posed: bool = False,
        source: str = "the data",
    ) -> None:
        if len(rows) == 0:
            raise DataError(f"{name} is empty: it has no rows, so there is nothing to train on.")
        self.name, self._source = name, source
        found = readable(rows, name)
        is_transformed = found is not rows and not isinstance(found, ArrowRows)
        shown = f"{name}, as its transform gives it," if is_transformed else name
        self._is_posed = is_posed
        self._sources = _name_columns(_column_names(found, name), columns or {}, shown, needs_prompt=not is_posed)
        if isinstance(found, ArrowRows) and "prompt" in self._sources:
            found = found.with_text(self._sources["prompt"])
        self._rows = found
        self._check_media()
        self.dropped_columns = tuple(sorted(RESERVED_COLUMNS & self._sources.keys()))
        self.column_names = tuple(n for n in self._sources if n != "prompt" and n not in RESERVED_COLUMNS)
        self.info = {"name": name, "num_rows": len(rows), "fingerprint": self._check_prompts(), **(info or {})}
        if self.dropped_columns:
            _log.warning(_dropped_message(name, self.dropped_columns))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row_number = range(len(self))[index]  # counts from the end, raises IndexError
        row = self._rows[row_number]
        columns = {name: row.get(self._sources[name]) for name in self.column_names}
        prompt = row[self._sources["prompt"]] if "prompt" in self._sources else _NO_PROMPT
        return Problem(row_number, _copy_prompt(prompt), columns, place_of(self._rows, row_number), self._source)

    def __iter__(self) -> Iterator[Problem]:
        return (self[i] for i in range(len(self)))

    def _check_media(self) -> None:
        """Refuse what the ecosystem would show to a model that sees: here it would reach the rewards alone."""
        for name in (name for name in MEDIA_COLUMNS if name in self._sources):
            source = self._sources[name]
            if isinstance(self._rows, ArrowRows):
                filled = self._rows.filled(source)
            else:
                filled = (_is_filled(row.get(source)) for row in self._rows)
            if (row := next((i for i, is_set in enumerate(filled) if is_set), None)) is not None:
                raise DataError(
                    f"{_where(self._rows, row, self.name)} has something in the column {source!r}, which cannot reach "
                    "the model: groupwise trains on text. Remove the column "
                    f"(dataset.remove_columns({source!r})), or rename it where only the rewards need it."
                )

    def _prompts(self) -> Iterator[Any]:
        if "prompt" not in self._sources:
            return (_NO_PROMPT for _ in range(len(self)))
        source = self._sources["prompt"]
        return self._rows.column(source) if isinstance(self._rows, ArrowRows) else (r.get(source) for r in self._rows)

    def _check_prompts(self) -> str:
        """Check every prompt now rather than in the middle of a run; their sha256."""
        digest = hashlib.sha256()
        for row, prompt in enumerate(self._prompts()):
            complaint = None if self._is_posed and _is_empty_chat(prompt) else _complaint(prompt)
            if complaint:
                source = self._sources["prompt"]
                complaint = _no_value(source, self._rows[row]) if prompt is None else complaint
                raise DataError(f"{_where(self._rows, row, self.name)}, column {source!r}: {complaint}")
            digest.update(as_text(prompt).encode() + b"\n")
        return digest.hexdigest()


def _column_names(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """The union over all rows, in order of appearance: a cell that a row lacks is `None`."""
    if isinstance(rows, ArrowRows):
        return rows.column_names
    names: dict[str, None] = {}
    for index, row in enumerate(rows):
        for key in row if isinstance(row, Mapping) else ():
            if not isinstance(key, str):
                raise DataError(f"{_where(rows, index, name)} has a column {key!r}; the name of a column is text.")
        if not isinstance(row, Mapping):
            raise DataError(
                f"{_where(rows, index, name)} is a {type(row).__name__}, not a mapping of column names to values. "
                'Each row should look like {"prompt": "...", "answer": ...}.'
            )
        names.update(dict.fromkeys(row))
    return list(names)


def _where(rows: Sequence[Mapping[str, Any]], index: int, name: str) -> str:
    return place_in(name, place_of(rows, index))


def _name_columns(
    present: Sequence[str], renames: Mapping[str, str], name: str, *, needs_prompt: bool
) -> dict[str, str]:
    """New column name -> the data set's own."""
    for new, source in renames.items():
        if source not in present:
            hint = near_column(source, present) or f" It has: {', '.join(present)}."
            raise DataError(f"columns maps {source!r} to {new!r}, but {name} has no column {source!r}.{hint}")
        if new in RESERVED_COLUMNS:
            raise DataError(f"columns maps {source!r} to {new!r}, a name the trainer uses itself. Choose another name.")
        if new in present and new not in renames.values():
            raise DataError(
                f"columns maps {source!r} to {new!r}, but {name} already has a column {new!r}. "
                f"Choose another name, or rename that one as well."
            )
    kept = {column: column for column in present if column not in renames.values()}
    sources = {**kept, **renames}
    if needs_prompt and "prompt" not in sources:
        raise DataError(_no_prompt_message(present, name))
    return sources


def _no_prompt_message(present: Sequence[str], name: str) -> str:
    near = next((c for c in _USUAL_PROMPT_COLUMNS if c in present), None)
    hint = f" Is it called {near!r}?" if near else did_you_mean("prompt", present)
    return (
        f"{name} has no column 'prompt'; it has: {', '.join(present)}.{hint} "
        f"In a recipe, data: {{path: ..., columns: {{prompt: {near or 'YOUR_COLUMN'}}}}} chooses one; "
        "in Python, rename it."
    )


def _dropped_message(name: str, dropped: Sequence[str]) -> str:
    first = dropped[0]
    return (
        f"{name}: column {', '.join(map(repr, dropped))} does not reach the rewards, because the trainer uses that "
        f'name itself. To hand it over, rename it: dataset.rename_column("{first}", "reference"), or in a recipe '
        f"columns: {{reference: {first}}}."
    )


def _is_empty_chat(prompt: Any) -> bool:
    """Whether it is messages without any text: what an environment writes its problem into."""
    is_chat = isinstance(prompt, Sequence) and not isinstance(prompt, str) and bool(prompt)
    return is_chat and all(isinstance(m, Mapping) and "role" in m and m.get("content") in ("", None) for m in prompt)


def _no_value(source: str, row: Mapping[str, Any]) -> str:
    """The complaint about a row without a prompt: what it has instead, and which of that was probably meant."""
    filled = [name for name, value in row.items() if value is not None]
    return f"the row has no {source}; it has: {', '.join(filled) or 'nothing'}.{did_you_mean(source, filled)}"


def _complaint(prompt: Any) -> str | None:
    """What is wrong with a prompt, or `None`."""
    if isinstance(prompt, str):
        return None if prompt.strip() else "the prompt is empty."
    if not isinstance(prompt, Sequence):
        return f"a prompt is text or a list of messages, not {type(prompt).__name__}."
    if not prompt:
        return "the prompt is empty: a list without messages."
    for message in prompt:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            return f'a message looks like {{"role": "user", "content": "..."}}, not {str(message)[:80]}.'
        if (kind := _medium(message["content"])) is not None:
            return (
                f"a message has a part of type {kind!r}, which cannot reach the model: groupwise trains on text. Leave "
                "such parts out."
            )
    return None if any(message["content"] for message in prompt) else "the prompt is empty: no message has text."


def _medium(content: Any) -> str | None:
    """The type of the first part of a message that is no text; None where all are."""
    parts = content if isinstance(content, list | tuple) else ()
    kinds = (str(part.get("type") or "text") for part in parts if isinstance(part, Mapping))
    return next((kind for kind in kinds if kind != "text"), None)


def _is_filled(value: Any) -> bool:
    return value is not None and not (isinstance(value, str | list | tuple | Mapping) and not value)


def _copy_prompt(prompt: Any) -> Prompt:
    """A prompt of its own, without the keys that are `None` in a message: templates take them for being there."""
    if isinstance(prompt, str):
        return prompt
    return [{k: v for k, v in message.items() if v is not None or k == "content"} for message in prompt]
