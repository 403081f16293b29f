"""The log and the record of every step: trackers, `log_history`, the line of metrics.jsonl, the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from time import perf_counter
from typing import Any

from groupwise.config.settings import Settings
from groupwise.lifecycle.callbacks import Callbacks, Log
from groupwise.runs.completion_table import CompletionTable
from groupwise.runs.log_entries import Entry, entry, finite, history
from groupwise.runs.screen import Screen
from groupwise.runs.trackers import Trackers
from groupwise.runs.writer import RunWriter
from groupwise.train.step import Idle, StepRecord

_OF_AN_UPDATE = ("loss", "grad_norm", "learning_rate")
"""Keys by which scripts tell the entry of a step from the last one."""


class LogHook(Idle):
    """Makes the entry of a step and of those since the last entry, and at the end the closing entry of the process."""

    def __init__(self, callbacks: Callbacks, log: Log, config: Settings, prefixes: Sequence[str] = ("eval",)) -> None:
        """`prefixes`: how the keys of each evaluation set begin."""
        self._callbacks, self._log, self._config, self._prefixes = callbacks, log, config, prefixes
        self._since: list[Mapping[str, Any]] = []
        """Metrics of the steps since the last entry."""
        self._asked: list[int] = []
        """Steps that a callback requested an entry for."""
        self._losses: list[float] = []
        self._begin_s = 0.0

    def start(self) -> None:
        self._begin_s = perf_counter()

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        self._since.append(record.metrics)
        self._losses += finite({"loss": record.metrics.get("loss")}).values()
        is_due = self._config.is_logged(record.step)
        if self._callbacks.take("should_log") and not is_due:
            self._asked.append(record.step)
        if is_due or record.step in self._asked:
            self._log(entry(self._since, is_trl=self._config.is_trl))
            self._since = []
        return {}

    def end(self) -> None:
        if self._losses:
            self._callbacks.close_log(self._closing(), self._log)

    def _closing(self) -> Entry:
        """transformers' last entry, of the steps that this process took, and as in TRL the metrics since the last one.

        A sample is a completion.
        """
        seconds, num_steps = perf_counter() - self._begin_s, len(self._losses)
        rest = entry(self._since, is_trl=self._config.is_trl) if self._since else {}
        return {
            **{key: value for key, value in rest.items() if key not in _OF_AN_UPDATE},
            "train_runtime": seconds,
            "train_samples_per_second": num_steps * self._config.completions_per_step / seconds,
            "train_steps_per_second": num_steps / seconds,
            "total_flos": 0.0,
            "train_loss": fmean(self._losses),
            "epoch": float(self._callbacks.state.epoch or 0),
        }

    def read_back(self, records: Iterable[Mapping[str, Any]], at_start: Mapping[str, float]) -> None:
        """Make the log that a resumed run had after these records; `at_start` is its evaluation before step 1."""
        config, asked = self._config, set(self._asked)

        def is_logged(step: int) -> bool:
            return step in asked or config.is_logged(step)

        past = history(records, is_logged, at_start, is_trl=config.is_trl, prefixes=self._prefixes)
        self._callbacks.state.log_history, self._since = past

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"asked": list(self._asked)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._asked = list(state["asked"])


class RecordHook(Idle):
    """Writes the line of the step and shows it; from then on the step is whole (`finish`)."""

    def __init__(
        self, writer: RunWriter, screen: Screen, finish: Callable[[int], None], trackers: Trackers, config: Settings
    ) -> None:
        self._writer, self._screen, self._finish = writer, screen, finish
        self._trackers, self._config = trackers, config

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        metrics = dict(record.metrics)
        self._writer.step(metrics)
        self._finish(record.step)
        used = [group for group in record.groups if group.is_used]
        self._screen.step(metrics, used)
        if self._config.log_completions and self._config.is_logged(record.step):
            self._show(CompletionTable.of(record.step, used))
        return {}

    def _show(self, table: CompletionTable) -> None:
        """The completions of the step, as TRL shows them."""
        if (shown := table.sampled(self._config.num_completions_to_print)).rows:
            self._screen.note(shown.text())
        logged = table.with_unique_prompts() if self._config.log_unique_prompts else table
        self._trackers.log_table("completions", logged.columns, logged.rows, table.step)
