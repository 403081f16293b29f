"""Entries of `log_history`, `on_log` and the trackers, made from the records of the steps.

An entry covers the steps since the entry before it. It holds the mean of each metric over these steps, as transformers
and TRL log them, and of counters, gradient norm and learning rate what the last step has (`Metric.is_last`). Numbers
that are not finite are left out of a mean. An evaluation is an entry of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    seconds = {key: value for key, value in metrics.items() if key.startswith("time/")}
    runtime = {f"{key.removeprefix('time/')}_runtime": value for key, value in seconds.items()}
    return {**finite({**metrics, **runtime}), "epoch": epoch}


def history(
    records: Iterable[Mapping[str, Any]],
    is_logged: Callable[[int], bool],
    at_start: Mapping[str, float],
    *,
    is_trl: bool = False,
    prefixes: Sequence[str] = ("eval",),
) -> History:
    """Everything that was logged when these records were written.

    An entry is made after the steps that `is_logged`; `at_start` is an evaluation before step 1, which the record of
    step 1 repeats. `prefixes`: how the keys of each evaluation set begin.
    """
    before = evaluations_of(at_start, prefixes)
    entries: list[Entry] = [{**evaluation_entry(evaluated, 0.0), "step": 0} for evaluated in before]
    since: list[Mapping[str, Any]] = []
    for record in records:
        step = record["step"]
        since.append(record)
        if is_logged(step):
            entries.append({**entry(since, is_trl=is_trl), "step": step})
            since = []
        for evaluated in evaluations_of(finite(record), prefixes):
            if evaluated not in before:
                entries.append({**evaluation_entry(evaluated, record["epoch"]), "step": step})
    return History(entries, since)


def evaluation_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of the evaluation after a step; empty where there was none."""
    return {k: v for k, v in metrics.items() if k.startswith(("eval_", _TIME))}


def evaluations_of(metrics: Mapping[str, Any], prefixes: Sequence[str]) -> list[dict[str, Any]]:
    """The same cut into the evaluation sets whose keys begin with these prefixes, in their order."""
    found: dict[str, dict[str, Any]] = {prefix: {} for prefix in prefixes}
    longest_first = sorted(prefixes, key=len, reverse=True)
    for key, value in evaluation_of(metrics).items():
        words = key.removeprefix("time/")
        prefix = next((p for p in longest_first if words == p or words.startswith(f"{p}_")), None)
        if prefix is not None:
            found[prefix][key] = value
    return [each for each in found.values() if each]


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
