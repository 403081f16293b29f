"""Checks every guard after every step, and warns, stops or rolls back as the recipe sets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from groupwise.config.guards import BY_NAME, WARN_EVERY, GuardSetting
from groupwise.errors import GuardError
from groupwise.guards.agreement import AgreementProbe, require_agreement
from groupwise.guards.measures import MEASURES, StepView
from groupwise.runs.writer import RunWriter
from groupwise.train.step import Idle, StepRecord

_log = logging.getLogger(__name__)


@dataclass
class Record:
    """What is remembered of one guard; plain JSON."""

    num_beyond: int = 0
    """Measured steps in a row beyond the threshold."""
    since: int | None = None
    """The first of them."""
    last_warned: int | None = None
    memory: list[float] = field(default_factory=list)
    """Of its measure."""


@dataclass(frozen=True)
class Stop:
    """The guard that ends a run, the reason, and the step from which on it went wrong."""

    guard: str
    action: str
    sentence: str
    since: int


class GuardMonitor(Idle):
    """All guards of a run. `stop` is called with the guard that ends it; `stopped` is then the reason.

    `probe` compares engine and learner before the first step; `roll_back` puts an earlier checkpoint back.
    """

    def __init__(
        self,
        settings: Mapping[str, GuardSetting],
        writer: RunWriter,
        stop: Callable[[str], None],
        probe: AgreementProbe | None = None,
        roll_back: Callable[[int], int | None] = lambda before: None,
    ) -> None:
        self.settings, self.writer, self.stop = settings, writer, stop
        self._probe, self._roll_back = probe, roll_back
        self.stopped: Stop | None = None
        self.outcome = ""
        """What became of the weights of a run that was ended."""
        self.can_resume = True
        """Whether the latest checkpoint is free of what a guard has ended the run for, as far as is known."""
        self._records = {name: Record() for name in MEASURES}
        self._last_told_of_skips: int | None = None

    @property
    def may_save(self) -> bool:
        """Whether the weights as they are now may become a checkpoint."""
        return self.stopped is None or self.stopped.action != "rollback"

    @property
    def is_stopped(self) -> bool:
        """Whether a guard has ended the run."""
        return self.stopped is not None

    def num_kept(self, limit: int | None) -> int | None:
        """Checkpoints to keep; all of them while a guard may still want to go back to one."""
        acting = {name for name, setting in self.settings.items() if setting.action in ("stop", "rollback")}
        is_in_doubt = any(self._records[name].since is not None for name in acting & self._records.keys())
        return None if is_in_doubt else limit

    def is_on(self, name: str) -> bool:
        return self.settings[name].action != "off"

    def start(self) -> None:
        """Compare the log-probs of engine and learner.

        Raises:
            GuardError: they differ by too much to train.
        """
        if self._probe is not None:
            require_agreement(self._probe, self)

    def check_start(self, name: str, value: float, cause: Callable[[float], str]) -> None:
        """Check a value measured before the first step; `cause` looks for the likely one, given the threshold.

        Raises:
            GuardError: the guard does not let the run start.
        """
        guard, setting = BY_NAME[name], self.settings[name]
        if not guard.is_beyond(value, setting.threshold):
            return
        sentence = self._report(name, value, step=None, detail=f" Likely cause: {cause(setting.threshold)}")
        if setting.action == "stop":
            raise GuardError(f"This run was not started. {sentence}")

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        assert record.result is not None, "guards check a step in the process that took it"
        is_current = all(c.policy_version == record.step - 1 for group in record.groups for c in group.completions)
        result = record.result
        self.check_step(
            record.step, StepView(record.metrics, record.groups, result.update, result.is_float32, is_current)
        )
        return {}

    def check_step(self, step: int, view: StepView) -> None:
        """Check every guard that is on, before the step is recorded and saved."""
        self._report_skips(step, view)
        for name, measure in MEASURES.items():
            value = measure(view, self._records[name].memory) if self.is_on(name) else None
            if value is not None:
                self._check(name, value, step)
        if self.stopped is not None:
            self.stop(f"guard {self.stopped.guard}")

    def end(self) -> None:
        """Go back to the last good checkpoint where a guard's action is rollback."""
        if self.stopped is None:
            return
        self.outcome = "final/ holds the weights of the last step."
        if self.stopped.action == "rollback":
            good = self._roll_back(self.stopped.since)
            self.can_resume = good is not None
            if good is None:
                self.outcome = (
                    f"No checkpoint is older than step {self.stopped.since}, where it began (save_steps): final/ holds "
                    "the weights of the last step, which are not to be trusted."
                )
            else:
                self.outcome = f"Went back to the checkpoint of step {good}: final/ holds its weights."
            self.writer.event("rollback", to_step=good, message=self.outcome)

    def raise_if_stopped(self) -> None:
        """Raise the reason where a guard has ended the run."""
        if self.stopped is not None:
            raise GuardError(f"{self.stopped.sentence} {self.outcome}")

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON; part of the checkpoint."""
        records = {name: asdict(record) for name, record in self._records.items()}
        return {"records": records, "last_told_of_skips": self._last_told_of_skips}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        known = {name: values for name, values in state.get("records", {}).items() if name in MEASURES}
        self._records |= {name: Record(**values) for name, values in known.items()}
        self._last_told_of_skips = state.get("last_told_of_skips")

    def _check(self, name: str, value: float, step: int) -> None:
        setting, record = self.settings[name], self._records[name]
        if not BY_NAME[name].is_beyond(value, setting.threshold):
            record.num_beyond, record.since = 0, None
            return
        record.num_beyond += 1
        record.since = record.since or step
        if record.num_beyond < setting.steps:
            return
        if setting.action == "warn":
            if _is_due(record.last_warned, step):
                record.last_warned = step
                self._report(name, value, step)
            return
        sentence = self._report(name, value, step)
        if self.stopped is None or self.stopped.action != "rollback":
            self.stopped = Stop(name, setting.action, sentence, record.since)

    def _report(self, name: str, value: float, step: int | None, detail: str = "") -> str:
        """Record and show the sentence of a guard; returns it."""
        guard, setting = BY_NAME[name], self.settings[name]
        at = "" if step is None else f" at step {step}"
        sentence = (
            f"Guard {name} ({setting.action}){at}: {guard.message.format(value=value)} "
            f"(it acts {guard.bound(setting)}).{detail} {guard.remedy}"
        )
        self.writer.event(
            "guard",
            step=step or 0,
            guard=name,
            action=setting.action,
            value=value,
            threshold=setting.threshold,
            message=sentence,
        )
        _log.warning(sentence)
        return sentence

    def _report_skips(self, step: int, view: StepView) -> None:
        """An update that was left out is always recorded, and shown as often as a warning."""
        reasons = [why for why in view.update.why_skipped if why is not None]
        if not reasons:
            return
        text = f"Step {step}: {len(reasons)} of {view.update.num_updates} updates left out: {reasons[0]}."
        self.writer.event("update_skipped", step=step, num_skipped=len(reasons), message=text)
        if _is_due(self._last_told_of_skips, step):
            self._last_told_of_skips = step
            _log.warning(f"{text} Weights, optimizer and schedule stay as they were.")


def _is_due(last: int | None, step: int) -> bool:
    return last is None or step - last >= WARN_EVERY
