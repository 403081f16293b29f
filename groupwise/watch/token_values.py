"""The tokens of a completion, each with its text and what was recorded of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groupwise.errors import RunError
from groupwise.runs.folder import RunFolder
from groupwise.runs.token_record import TokenRecord, read_token_record
from groupwise.watch.step_file import OutsideError, StepFile, inside, num_sampled

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VALUES = ("logprob", "ref_log_ratio", "advantage")


def record_of(folder: RunFolder, step: int) -> TokenRecord | None:
    """The token record of a step; None where there is none, or it cannot be read."""
    try:
        return read_token_record(folder, step)
    except (RunError, OSError):
        return None


def mean_log_ratios(folder: RunFolder, step: int) -> list[float | None]:
    """The mean log-ratio of policy to reference of each completion of a step; empty where it is not recorded."""
    record = record_of(folder, step)
    if record is None or record.ref_log_ratio is None:
        return []
    values = record.ref_log_ratio.tolist()
    return [_rounded(math.fsum(values[a:b]) / (b - a)) if b > a else None for a, b in _spans(record.lengths.tolist())]


def tokens_of(file: StepFile, folder: RunFolder, place: int, first: int, count: int) -> list[dict[str, Any]]:
    """Tokens of `count` completions, from number `first` of the group whose line begins at `place` on.

    Returns:
        For each completion `texts`, one a token (empty where no tokenizer is in the folder), `is_sampled`, one a token,
        and of `VALUES` those that are recorded, one a token; None for a token that was given.
    """
    group, tokenizer = file.group_at(place), tokenizer_in(folder)
    if group is None:
        return []
    shown = group["completions"][first : first + count]
    values = _recorded(file, folder, place, first, count) if file.path.parent.name == "completions" else []
    return [_tokens(shown[i], tokenizer, values[i] if i < len(values) else {}) for i in range(len(shown))]


def _recorded(
    file: StepFile, folder: RunFolder, place: int, first: int, count: int
) -> Sequence[Mapping[str, list[float | None]]]:
    """Of each of these completions the values of its sampled tokens."""
    record = record_of(folder, file.step)
    if record is None:
        return []
    before = first + sum(len(group["completions"]) for at, group in file.groups() if at < place)
    spans = list(_spans(record.lengths.tolist()))[before : before + count]
    arrays = {name: array for name in VALUES if (array := getattr(record, name, None)) is not None}
    return [{name: [_rounded(v) for v in array[a:b].tolist()] for name, array in arrays.items()} for a, b in spans]


def _tokens(
    completion: Mapping[str, Any], tokenizer: Tokenizer | None, found: Mapping[str, list[float | None]]
) -> dict[str, Any]:
    ids, turns = completion.get("ids") or [], completion.get("turns")
    is_sampled = [not turns or any(turn["start"] <= i < turn["end"] for turn in turns) for i in range(len(ids))]
    fitting = {name: values for name, values in found.items() if len(values) == num_sampled(completion)}
    return {
        "texts": token_texts(tokenizer, ids) if tokenizer else [],
        "is_sampled": is_sampled,
        **{name: _spread(values, is_sampled) for name, values in fitting.items()},
    }


def _spread(values: Sequence[float | None], is_sampled: Sequence[bool]) -> list[float | None]:
    """One entry a token."""
    following = iter(values)
    return [next(following) if sampled else None for sampled in is_sampled]


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; a character of several tokens stands at the last of them."""
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer, token) or "" for token in ids]


def tokenizer_in(folder: RunFolder) -> Tokenizer | None:
    """The tokenizer of the run; None where its folder holds none in the one file that a page can read."""
    saved = (folder.final, folder.latest_checkpoint)  # before there was one for the completions
    for path in (folder.tokenizer, *(place / folder.tokenizer.name for place in saved if place is not None)):
        try:
            found = inside(folder.path, path)
            return _load(found, found.stat().st_mtime_ns)
        except (OSError, OutsideError):
            continue
    return None


@lru_cache(maxsize=1)
def _load(path: Path, _changed: int) -> Tokenizer | None:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception:  # tokenizers raises nothing narrower; the page shows the text without its tokens
        return None


def _spans(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where the tokens of each completion begin and end."""
    return itertools.pairwise(itertools.accumulate(lengths, initial=0))


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
