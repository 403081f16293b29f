"""Loads problems from a packaged name, a local file, a Hub id, a `datasets.Dataset` or a list of dicts."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groupwise.data import packaged
from groupwise.data.files import FORMATS, find_file, is_path, read_file, take_rows
from groupwise.data.problems import Problems
from groupwise.errors import DataError, can_name_file, did_you_mean, shortened
from groupwise.hub import hub_or_cache

Rows = Sequence[Mapping[str, Any]]

MAX_STREAMED = 10_000
"""Rows of a stream of evaluation data that are read at most where no number of them is set."""

_HELD_OUT = "the evaluation data"
"""What messages about its rows call a set that a program has handed over."""

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SPLIT = re.compile(r"(?P<name>[\w.-]+)?(?:\[(?P<start>\d*)(?P<start_percent>%?):(?P<stop>\d*)(?P<stop_percent>%?)\])?")


def load_problems(
    data: Any,
    *,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    subset: str | None = None,
    revision: str | None = None,
    num_streamed: int | None = None,
    is_posed: bool = False,
    source: str = "the data",
) -> Problems:
    """The problems of a data set.

    `data` is a packaged name (`python-docs`), a local JSONL, JSON, CSV or Parquet file (or a folder of them, one a
    split), a Hub id, a `datasets.Dataset` or a list of dicts. `split` is a name, a slice or both: `train`, `[:90%]`,
    `train[100:]`; without one it is `train`. `columns` renames (new name: the data set's own). `subset` and
    `revision` are for the Hub. `num_streamed`: how many rows of a stream (`IterableDataset`) are read, its first ones.
    `is_posed`: an environment poses the problems, and the prompts may be empty or missing. `source` is what messages
    about one of its rows call a data set without a name.

    Raises:
        DataError: nothing of that name, no such split or column, no rows, or an object that is no data set.
    """
    wanted = _split_name(split)
    if (subset or revision) and not _is_hub_id(data):
        raise DataError("subset and revision are for data sets on the Hub; this one is not. Leave them out.")
    if isinstance(data, Problems):
        assert split is None, "loaded problems are taken as they are"
        assert columns is None, "loaded problems are taken as they are"
        return data
    if isinstance(data, str | Path):
        rows, info = _read(str(data), split, subset, revision)
        return Problems(rows, name=str(data), columns=columns, info=info, is_posed=is_posed, source=str(data))
    name = _name_of(data)
    if is_stream(data):
        rows = _first_rows(data, num_streamed, wanted)
        info = {"split": split, "num_streamed": num_streamed}
        return Problems(rows, name=name, columns=columns, info=info, is_posed=is_posed, source=source)
    rows = _cut(_from_object(data, wanted), split, name)
    return Problems(rows, name=name, columns=columns, info={"split": split}, is_posed=is_posed, source=source)


def load_held_out(data: Any, *, num_streamed: int | None = None, is_posed: bool = False) -> dict[str, Problems]:
    """The evaluation sets of a data set by their names: those of a dict or `DatasetDict`, or one whose name is "".

    `num_streamed`: how many rows of a stream are read, its first ones; without it the whole of a short one. `is_posed`
    is that of `load_problems`.

    Raises:
        DataError: a set that cannot be used, or names whose metrics would be called the same; a stream that does not
            end within `MAX_STREAMED` rows.
    """
    if not isinstance(data, Mapping):
        return {"": _held_out(data, num_streamed, is_posed)}
    if not data:
        raise DataError("The evaluation data is an empty dict. Give one data set, or a dict of several by their names.")
    for name in data:
        if not isinstance(name, str) or not name or name.rpartition("_")[2] == "greedy":
            raise DataError(
                f"{name!r} is no name for an evaluation set: its metrics are called eval_NAME_reward and, for greedy "
                'completions, eval_NAME_greedy_reward. Choose a word that does not end in "greedy".'
            )
    return {name: _held_out(rows, num_streamed, is_posed) for name, rows in data.items()}


def _held_out(data: Any, num_streamed: int | None, is_posed: bool) -> Problems:
    if num_streamed is not None or not is_stream(data):
        return load_problems(data, num_streamed=num_streamed, is_posed=is_posed, source=_HELD_OUT)
    rows = _first_rows(data, MAX_STREAMED + 1, None)
    if len(rows) > MAX_STREAMED:
        raise DataError(
            f"The evaluation data is a stream (IterableDataset) that does not end within {MAX_STREAMED:,} rows. Set "
            "num_eval_problems, and as many of its first rows are read; or load it without streaming=True."
        )
    info = {"split": None, "num_streamed": len(rows)}
    return Problems(rows, name=_name_of(data), info=info, is_posed=is_posed, source=_HELD_OUT)


def _name_of(data: Any) -> str:
    return f"the {type(data).__name__} given as data"


def is_stream(data: Any) -> bool:
    """Whether these rows have no length and no order but their own."""
    datasets = sys.modules.get("datasets")  # if it was never imported, this is none of its objects
    return datasets is not None and isinstance(data, datasets.IterableDataset | datasets.IterableDatasetDict)


def _first_rows(data: Any, num_rows: int | None, split_name: str | None) -> Rows:
    """The first rows of a stream, which has no length and no order but its own, in Python's own types."""
    if num_rows is None:
        raise DataError(
            "A streamed data set (IterableDataset) has no length, so no epochs can be drawn from it. Set max_steps, "
            "and as many rows as are needed are read; or load it without streaming=True."
        )
    rows = _pick_split(data, split_name or "train") if isinstance(data, Mapping) else data
    if rows.features is None:  # as a generator has made them
        return list(rows.take(num_rows))
    import datasets

    taken = list(rows.with_format(None).take(num_rows))
    return datasets.Dataset.from_list(taken, features=rows.features)  # type: ignore[no-any-return]


def _read(name: str, split: str | None, subset: str | None, revision: str | None) -> tuple[Rows, dict[str, Any]]:
    if not can_name_file(name):
        raise DataError(f"{shortened(name)!r} is no data set: expected {_KINDS}.")
    if packaged.is_packaged(name):
        rows, info = packaged.load(name, _split_name(split) or "train")
        return _cut(rows, split, name), {"split": split or "train", **info}
    if is_path(name):
        path = find_file(Path(name).expanduser(), _split_name(split) or "train")
        return _cut(read_file(path), split, name), {"split": split, "file": str(path)}
    if not _HUB_ID.fullmatch(name):
        raise DataError(f"{name!r} is no data set: expected {_KINDS}.")
    return _from_hub(name, split or "train", subset, revision), {"split": split or "train", "revision": revision}


_KINDS = (
    f"a packaged name ({', '.join(packaged.NAMES)}), a local {', '.join(FORMATS)} file, a Hub id like owner/name, "
    "a list of dicts or a datasets.Dataset"
)


def _is_hub_id(data: Any) -> bool:
    return isinstance(data, str) and can_name_file(data) and not packaged.is_packaged(data) and not is_path(data)


def _from_hub(name: str, split: str, subset: str | None, revision: str | None) -> Rows:
    import datasets

    with hub_or_cache(name) as why:
        try:
            rows = datasets.load_dataset(name, subset, split=split, revision=revision)
        except Exception as error:  # not found, no network, gated; unknown split or subset; a damaged file
            hint = did_you_mean(name, packaged.NAMES)
            raise DataError(
                f"Cannot load the data set {name!r} (split {split!r}) from the Hub: {why(error)}{hint}"
            ) from error
    return _from_object(rows, None)


def _from_object(data: Any, split_name: str | None) -> Rows:
    """Rows of what a user hands over in Python; refuses with a sentence what cannot be indexed."""
    datasets = sys.modules.get("datasets")  # if it was never imported, this is none of its objects
    if datasets is not None and isinstance(data, datasets.DatasetDict):
        rows: Rows = _pick_split(data, split_name or "train")
        return rows
    if isinstance(data, list | tuple) or (datasets is not None and isinstance(data, datasets.Dataset)):
        if split_name not in (None, "train"):
            raise DataError(
                f"A {type(data).__name__} has no split {split_name!r}. Give the right rows, or a slice of these."
            )
        return data
    if hasattr(data, "to_dict") and hasattr(data, "columns"):
        raise DataError('A DataFrame is not taken as it is; give data=frame.to_dict("records").')
    columns = " Of columns, datasets.Dataset.from_dict makes rows." if isinstance(data, dict) else ""
    raise DataError(f"Cannot use a {type(data).__name__} as data. Expected {_KINDS}.{columns}")


def _pick_split(splits: Mapping[str, Any], name: str) -> Any:
    if name not in splits:
        hint = did_you_mean(name, splits)
        raise DataError(f"The data set has no split {name!r}; it has: {', '.join(splits)}.{hint}")
    return splits[name]


def _split_name(split: str | None) -> str | None:
    match = _SPLIT.fullmatch(split or "")
    if match is None:
        raise DataError(f'{split!r} is no split. Write a name, a slice or both: "train", "[:90%]", "train[100:]".')
    return match["name"]


def _cut(rows: Rows, split: str | None, name: str) -> Rows:
    """The slice that a split names: `train[10:20]`, `[:90%]`. Percentages round down on both sides."""
    match = _SPLIT.fullmatch(split or "")
    if match is None or "[" not in (split or ""):
        return rows
    bounds = []
    for end, default in (("start", 0), ("stop", len(rows))):
        value = int(match[end]) if match[end] else default
        bounds.append(value * len(rows) // 100 if match[end] and match[f"{end}_percent"] else value)
    indices = range(*slice(*bounds).indices(len(rows)))
    if not indices:
        raise DataError(f"The split {split!r} of {name} holds none of its {len(rows)} rows.")
    return rows.select(indices) if hasattr(rows, "select") else take_rows(rows, indices)
