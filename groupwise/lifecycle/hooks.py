"""The hooks of a run: what follows each step, in one order, and what a resumed run makes up for.

measuring   guards, totals, curriculum: they read the result and add to the metrics of the step
commit      the step's weights and metrics are final; from here on an interrupted run can be saved exactly
finishing   callbacks, log, evaluation, record, checkpoint: a resumed run makes up for those that were missed
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from groupwise.checkpoint.exact import ExactState
from groupwise.lifecycle.step_tokens import token_record
from groupwise.runs.writer import RunWriter
from groupwise.train.step import Hook, StepRecord, StepResult
from groupwise.train.step_metrics import step_metrics


class RunHooks:
    """All hooks of a run, as one hook of the train loop."""

    def __init__(
        self,
        measuring: Sequence[Hook],
        finishing: Sequence[Hook],
        exact: ExactState,
        writer: RunWriter,
        takes_evaluation: Callable[[], bool],
        are_tokens_recorded: Callable[[int], bool],
    ) -> None:
        self._measuring, self._finishing = tuple(measuring), tuple(finishing)
        self._exact, self._writer, self._takes_evaluation = exact, writer, takes_evaluation
        self._are_tokens_recorded = are_tokens_recorded
        self.unfinished: StepRecord | None = None
        """The last step of an interrupted run, committed and not finished; set by resume."""

    def start(self) -> None:
        for hook in (*self._measuring, *self._finishing):
            hook.start()
        if self.unfinished is not None:
            self._finish(self.unfinished)

    def before_step(self, step: int) -> None:
        for hook in (*self._measuring, *self._finishing):
            hook.before_step(step)
        self._exact.begin(step - 1)

    def after_step(self, result: StepResult) -> None:
        record = StepRecord(result.step, step_metrics(result), result.groups, result)
        record = _through(self._measuring, record)
        self._finish(replace(record, is_evaluation_asked=self._takes_evaluation()))

    def _finish(self, record: StepRecord) -> None:
        """Commit the step, then run the finishing hooks."""
        unfinished = {"metrics": dict(record.metrics), "is_eval_due": record.is_evaluation_asked}

        def write_groups() -> None:
            if record.result is not None:
                tokens = token_record(record.result) if self._are_tokens_recorded(record.step) else None
                self._writer.completions(record.step, record.groups, tokens)

        self._exact.commit(record.step, unfinished, write_groups)
        write_groups()
        _through(self._finishing, record)

    def end(self) -> None:
        """Measuring hooks first: a guard may put older weights back. Finishing hooks close in reverse order."""
        for hook in (*self._measuring, *reversed(self._finishing)):
            hook.end()


def _through(hooks: Iterable[Hook], record: StepRecord) -> StepRecord:
    for hook in hooks:
        record = replace(record, metrics={**record.metrics, **hook.after_step(record)})
    return record
