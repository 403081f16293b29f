"""Figures of a run in words, from its records."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from groupwise.diagnose.trend import reward_change
from groupwise.runs.metrics import held_out_rewards
from groupwise.runs.series import Record, last, seconds_trained, series, total
from groupwise.runs.text import duration, number

PARTS = ("rollout", "reward", "learn", "other")

OF_TURNS = (
    ("turns a completion, last step", "environment/turns/mean"),
    ("calls a completion, last step", "tools/call_frequency"),
)


def in_short(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The figures at the top of the report: (label, value)."""
    change = reward_change(records)
    if change is None:
        return size_in_short(records)
    return [
        (f"first reward ({_mean_of(change.num_first, 'first')})", number(change.first)),
        (f"last reward ({_mean_of(change.num_last, 'last')})", number(change.last)),
        ("change", ("+" if change.difference > 0 else "") + number(change.difference)),
        *size_in_short(records),
    ]


def size_in_short(records: Sequence[Record]) -> list[tuple[str, str]]:
    """The same without the reward: how much was trained."""
    figures: list[tuple[str, str]] = [("steps", f"{len(series(records, 'step').steps):,}")]
    for label, key in (("updates", "updates"), ("tokens", "num_tokens")):
        value = last(records, key)
        if value is not None:
            figures.append((label, f"{value:,.0f}"))
    figures += [(label, number(value)) for label, key in OF_TURNS if (value := last(records, key)) is not None]
    if total(records, "step_time"):
        figures.append(("time", duration(seconds_trained(records))))
    speeds = series(records, "tokens_per_second").values
    if speeds:
        figures.append(("completion tokens/s (median)", number(statistics.median(speeds))))
    return figures


def _mean_of(count: int, which: str) -> str:
    return f"{which} step" if count == 1 else f"mean of the {which} {count} steps"


def evaluation_rows(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    """(which, first evaluation, last evaluation), each with its standard error."""
    rows = []
    for label, key in held_out_rewards(key for record in records for key in record):
        found = [record for record in records if record.get(key) is not None]
        if found:
            rows.append((label, _with_error(found[0], key), _with_error(found[-1], key)))
    return rows


def _with_error(record: Record, key: str) -> str:
    error = record.get(f"{key}_stderr")
    text = number(record[key]) + (f" ± {number(error)}" if error is not None else "")
    return f"{text} (step {record['step']})"
