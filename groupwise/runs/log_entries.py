"""Entries of `log_history`, `on_log` and the trackers, made from the records of the steps.

An entry covers the steps since the entry before it. It holds the mean of each metric over these steps, as transformers
and TRL log them, and of counters, gradient norm and learning rate what the last step has (`Metric.is_last`). Numbers
that are not finite are left out of a mean. An evaluation is an entry of its own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from groupwise.runs import trl_metrics
from groupwise.runs.metrics import find

Entry = dict[str, float | None]
"""One entry. None stands for what was not measured, in TRL's vocabulary alone; otherwise the key is absent."""

_TIME = "time/eval"


class History(NamedTuple):
    """What a run has logged so far, and the records of the steps that the next entry begins with."""

    entries: list[Entry]
    since: list[Mapping[str, Any]]


def entry(records: Sequence[Mapping[str, Any]], *, is_trl: bool = False) -> Entry:
    """The entry of the steps whose records these are; `is_trl` takes TRL's definitions (`runs/trl_metrics.py`)."""
    records = [without_evaluation(record) for record in records]
    if is_trl:
        records = [trl_metrics.of_step(record) for record in records]
    keys = dict.fromkeys(key for record in records for key in record)
    means = {key: _over_steps(key, [record.get(key) for record in records]) for key in keys}
    return {key: value for key, value in means.items() if value is not None or (is_trl and trl_metrics.is_always(key))}


def evaluation_entry(metrics: Mapping[str, Any], epoch: float) -> Entry:
    """The entry of an evaluation, with `eval_runtime` as transformers names its seconds."""
    runtime = {"eval_runtime": metrics[_TIME]} if _TIME in metrics else {}
    return {**finite({**metrics, **runtime}), "epoch": epoch}


def history(
    records: Iterable[Mapping[str, Any]],
    every: int | None,
    asked: Collection[int],
    at_start: Mapping[str, float],
    *,
    is_trl: bool = False,
) -> History:
    """Everything that was logged when these records were written.

    An entry is made every `every` steps (None or 0: never) and at the steps `asked`; `at_start` is an evaluation before
    step 1, which the record of step 1 repeats.
    """
    entries: list[Entry] = [{**evaluation_entry(at_start, 0.0), "step": 0}] if at_start else []
    since: list[Mapping[str, Any]] = []
    for record in records:
        step, evaluated = record["step"], finite(evaluation_of(record))
        since.append(record)
        if step in asked or (every and step % every == 0):
            entries.append({**entry(since, is_trl=is_trl), "step": step})
            since = []
        if evaluated and evaluated != at_start:
            entries.append({**evaluation_entry(evaluated, record["epoch"]), "step": step})
    return History(entries, since)


def evaluation_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of the evaluation after a step; empty where there was none."""
    return {k: v for k, v in metrics.items() if k.startswith("eval_") or k == _TIME}


def without_evaluation(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a step as it was before an evaluation was added to it."""
    return {k: v for k, v in metrics.items() if k not in evaluation_of(metrics)}


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among the metrics."""
    return {k: v for k, v in metrics.items() if _is_finite(v)}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _over_steps(key: str, values: Sequence[Any]) -> float | None:
    """The metric over several steps; None where no step has a finite number."""
    numbers = [value for value in values if _is_finite(value)]
    if not numbers or key == "schema_version":
        return None
    metric = find(key)
    if len(numbers) == 1 or (metric is not None and metric.is_last):
        return float(numbers[-1]) if isinstance(numbers[-1], float) else int(numbers[-1])
    return fmean(numbers)
