"""The schedule of a run: its steps, its optimizer steps, and the steps at which the reference is updated."""

from __future__ import annotations

import math
from collections.abc import Iterator

from groupwise.config import Settings
from groupwise.policy.reference import Reference


class Schedule:
    """Counts steps. `stop` ends the run after the step under way, and keeps who asked for it."""

    def __init__(self, config: Settings, num_rows: int, reference: Reference | None) -> None:
        self.config = config
        self.reference = reference
        self.steps_per_epoch = config.steps_per_epoch(num_rows)
        self.num_steps = config.num_steps(num_rows)
        self.step = 0
        """Finished steps."""
        self.stopped_by: str | None = None
        """Who has asked for the end, in words; the first one where several have."""

    @property
    def num_updates(self) -> int:
        """Optimizer steps of the whole run."""
        return self.num_steps * self.config.updates_per_step

    @property
    def is_stopping(self) -> bool:
        return self.stopped_by is not None

    def stop(self, who: str) -> None:
        self.stopped_by = self.stopped_by or who

    def steps(self) -> Iterator[int]:
        """Numbers of the steps still to do, from 1."""
        while self.step < self.num_steps and not self.is_stopping:
            yield self.step + 1
            self.step += 1

    def is_due(self, step: int, every: int | None, strategy: str) -> bool:
        """Whether something that happens every so many steps, or once an epoch, happens after this one."""
        if strategy == "no":
            return False
        if strategy == "epoch":
            return math.floor(step / self.steps_per_epoch) > math.floor((step - 1) / self.steps_per_epoch)
        return every is not None and step % every == 0

    def is_evaluation_due(self, step: int) -> bool:
        """Whether the held-out problems are scored after this step; with an interval in steps also after the last."""
        config = self.config
        is_end = config.eval_strategy == "steps" and step == self.num_steps
        return is_end or self.is_due(step, config.eval_steps, config.eval_strategy)

    def sync_reference(self, step: int) -> None:
        """Iterative GRPO resets the reference every M steps; TR-DPO mixes the policy into it."""
        config = self.config
        if self.reference is None:
            return
        if config.ref_model_reset_steps and step % config.ref_model_reset_steps == 0:
            self.reference.mix(1.0)
        elif config.sync_ref_model and step % config.ref_model_sync_steps == 0:
            self.reference.mix(config.ref_model_mixup_alpha)
