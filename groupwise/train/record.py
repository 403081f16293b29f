"""What a step leaves behind: the record, the screen, trackers and callbacks; evaluations and checkpoints when due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..config import GRPOConfig
from ..data import Order
from ..runs.folder import RunFolder
from ..runs.reader import RunReader
from ..runs.screen import Screen
from ..runs.trackers import Trackers
from ..runs.writer import RunWriter
from ..types import Group
from ..world import peak_memory_bytes
from .batch import Batch
from .callbacks import Callbacks
from .checkpoint import load_checkpoint, save_checkpoint
from .collect import Collected
from .curriculum import follow
from .evaluate import Evaluator
from .learner import Learner, Update
from .metrics import finite, num_tokens
from .schedule import Schedule
from .watch import Watch


def with_advantages(groups: Sequence[Group], batch: Batch) -> list[Group]:
    """The groups with what they made of their rewards, for the record."""
    advantages = batch.advantages
    if advantages.dim() == 2:
        advantages = (advantages * batch.mask_NT).sum(1) / batch.mask_NT.sum(1).clamp(min=1)
    values = iter(advantages.tolist())
    return [replace(g, advantages=tuple(next(values) for _ in g.completions)) for g in groups]


class Recorder:
    """Everything around a step that is not the algorithm."""

    def __init__(
        self,
        config: GRPOConfig,
        folder: RunFolder,
        writer: RunWriter,
        screen: Screen,
        trackers: Trackers,
        callbacks: Callbacks,
        schedule: Schedule,
        learner: Learner,
        order: Order,
        evaluator: Evaluator | None,
    ) -> None:
        self.config, self.folder, self.writer, self.screen = config, folder, writer, screen
        self.trackers, self.callbacks, self.schedule = trackers, callbacks, schedule
        self.learner, self.order, self.evaluator = learner, order, evaluator
        self.num_tokens = 0
        self.num_updates = 0
        self.watch = Watch(config.guards, writer, screen.note, schedule.stop)
        self._evaluated: dict[str, float | None] = {}

    @property
    def state(self) -> Any:
        """The ecosystem's trainer state, for rewards and callbacks that ask for it."""
        return self.callbacks.state

    def begin(self) -> None:
        self.callbacks.state.max_steps = self.schedule.num_steps
        self.callbacks.state.global_step = self.schedule.step
        self.callbacks.call("on_train_begin")
        if self.config.eval_on_start and self.schedule.step == 0:
            self._evaluated = self.evaluate()

    def begin_step(self, step: int) -> None:
        if int(self.order.epoch) > int(self.callbacks.state.epoch or 0) or step == 1:
            self.callbacks.call("on_epoch_begin")
        self.callbacks.call("on_step_begin")

    def end_step(self, metrics: dict[str, Any], collected: Collected, update: Update) -> None:
        step = metrics["step"]
        self._count(collected, update, step)
        metrics |= self._totals(step)
        metrics |= follow(self.order, self.config, collected, self.writer, self.screen, step)
        if self._is_eval_due(step):
            self._evaluated = self.evaluate()
        metrics |= self._evaluated
        self._evaluated = {}
        self.writer.completions(step, collected.all_groups)
        self.writer.step(metrics)
        self.callbacks.call("on_optimizer_step")
        self.callbacks.call("on_step_end")
        self._log(metrics, collected)
        if self.callbacks.control.should_training_stop:
            self.schedule.stop()
        is_due = self.schedule.is_due(step, self.config.save_steps, self.config.save_strategy)
        is_last = step == self.schedule.num_steps and self.config.save_strategy != "no"
        is_asked = self.callbacks.take("should_save") or self.schedule.is_stopping
        if (is_due or is_last or is_asked) and self.watch.may_save:
            self.save(step)

    def end(self) -> None:
        self.watch.end(self.folder, self.learner)
        self.callbacks.call("on_train_end")

    def evaluate(self) -> dict[str, float | None]:
        """Evaluate now; empty without held-out problems."""
        if self.evaluator is None:
            return {}
        self.screen.progress("evaluate", 0, len(self.evaluator.rows))
        metrics = self.evaluator.evaluate(self.state)
        self.screen.evaluation(metrics)
        self.callbacks.call("on_evaluate", metrics=finite(metrics))
        return metrics

    def save(self, step: int) -> None:
        """Write a checkpoint of the finished step."""
        state = {
            "order": self.order.state_dict(),
            "num_tokens": self.num_tokens,
            "num_updates": self.num_updates,
            "watch": self.watch.state_dict(),
        }
        keep = self.watch.num_kept(self.config.save_total_limit)
        path = save_checkpoint(self.folder, step, self.learner, state, keep)
        self.writer.event("checkpoint", step=step, path=str(path.relative_to(self.folder.path)))
        self.callbacks.call("on_save")

    def resume(self, checkpoint: Any) -> None:
        """Go on after the step of a checkpoint."""
        state = load_checkpoint(checkpoint, self.learner)
        self.order.load_state_dict(state["order"])
        self.num_tokens, self.num_updates = state["num_tokens"], state["num_updates"]
        self.schedule.step = state["step"]
        self.watch.load_state_dict(state.get("watch", {}))
        history = [m for m in RunReader(self.folder).metrics() if m["step"] <= state["step"]]
        self.state.log_history = [finite(m) for m in history]
        self.learner.network.refresh()

    def _count(self, collected: Collected, update: Update, step: int) -> None:
        self.num_tokens += num_tokens(collected.all_groups)
        self.num_updates += update.num_updates
        state = self.callbacks.state
        state.global_step, state.epoch = step, self.order.epoch
        state.num_input_tokens_seen = self.num_tokens

    def _totals(self, step: int) -> dict[str, Any]:
        return {
            "epoch": self.order.epoch,
            "num_tokens": self.num_tokens,
            "updates": self.num_updates,
            "policy_version": step,
            "memory_peak_bytes": peak_memory_bytes(self.learner.network.device),
        }

    def _is_eval_due(self, step: int) -> bool:
        asked = self.callbacks.take("should_evaluate")
        return asked or self.schedule.is_due(step, self.config.eval_steps, self.config.eval_strategy)

    def _log(self, metrics: dict[str, Any], collected: Collected) -> None:
        self.screen.step(metrics, collected.groups)
        every = self.config.logging_steps
        if self.callbacks.take("should_log") or (every and metrics["step"] % every == 0):
            self.trackers.log(metrics, metrics["step"])
            self.state.log_history.append(finite(metrics))
            self.callbacks.call("on_log", logs=finite(metrics))
