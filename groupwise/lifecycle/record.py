"""What a step leaves behind: the record, the screen, trackers and callbacks; evaluations and checkpoints when due."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from groupwise.checkpoint.abort_state import Rescue
from groupwise.checkpoint.best import Best
from groupwise.checkpoint.fingerprint import Origin
from groupwise.checkpoint.store import learner_state, load_weights, num_bytes_of, save_checkpoint
from groupwise.config import GRPOConfig
from groupwise.data import Order
from groupwise.errors import RunError
from groupwise.guards.monitor import Watch
from groupwise.lifecycle.callbacks import Callbacks
from groupwise.lifecycle.evaluate import Evaluator
from groupwise.lifecycle.follow_curriculum import follow
from groupwise.lifecycle.step_metrics import finite, num_tokens, without_evaluation
from groupwise.runs.disk import free_bytes
from groupwise.runs.folder import RunFolder
from groupwise.runs.manifest import check
from groupwise.runs.reserve import Reserve
from groupwise.runs.screen import Screen
from groupwise.runs.trackers import Trackers
from groupwise.runs.writer import RunWriter
from groupwise.train.batch import Batch
from groupwise.train.collect import Collected
from groupwise.train.learner import Learner, Update
from groupwise.train.schedule import Schedule
from groupwise.types import Group
from groupwise.world import peak_memory_bytes


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
        self.best = Best(config)
        self.rescue = Rescue(learner)
        self.reserve = Reserve(folder.reserve)
        self.origin: Origin = {}
        """What the checkpoints of this run belong to."""
        self.at_start: dict[str, float] = {}
        """The evaluation before the first step, which stands in the record of that step."""
        self._unfinished: dict[str, Any] | None = None
        """What was left to do of the step that the checkpoint is of."""

    @property
    def state(self) -> Any:
        """The ecosystem's trainer state, for rewards and callbacks that ask for it."""
        return self.callbacks.state

    def begin(self) -> None:
        self.callbacks.plan(self.schedule.num_steps, self.schedule.steps_per_epoch)
        self.state.global_step, self.state.epoch = self.schedule.step, self.order.epoch
        self.callbacks.call("on_train_begin")
        if self.config.eval_on_start and self.schedule.step == 0:
            self.at_start = finite(self.evaluate())
        self._hold_room()
        if self._unfinished is not None:
            self._finish_step(**self._unfinished, groups=(), write_groups=lambda: None)

    def begin_step(self, step: int) -> None:
        if step == 1 or self.schedule.is_due(step - 1, None, "epoch"):
            self.callbacks.call("on_epoch_begin")
        self.callbacks.call("on_step_begin")
        self.rescue.begin(step - 1, self._state())

    def end_step(self, metrics: dict[str, Any], collected: Collected, update: Update) -> None:
        step = metrics["step"]
        self._count(collected, update, step)
        metrics |= self._totals(step)
        metrics |= follow(self.order, self.config, collected, self.writer, self.screen, step)
        metrics |= self.at_start if step == 1 else {}
        self._finish_step(
            metrics,
            self._is_eval_due(step),
            groups=collected.groups,
            write_groups=lambda: self.writer.completions(step, collected.all_groups),
        )

    def _finish_step(
        self,
        metrics: dict[str, Any],
        is_eval_due: bool,
        *,
        groups: Sequence[Group],
        write_groups: Callable[[], None],
    ) -> None:
        """Everything after the last change of a weight; what a failure leaves of it is done when the run goes on."""
        step = metrics["step"]
        left = {"metrics": metrics, "is_eval_due": is_eval_due}
        self.rescue.finish(step, {**self._state(), "unfinished": left}, write_groups)
        write_groups()
        self.callbacks.call("on_optimizer_step")
        self.callbacks.call("on_step_end")
        self._log(metrics)
        is_asked = self.callbacks.take("should_evaluate")
        evaluated = self.evaluate() if is_eval_due or is_asked else {}
        self._follow_best(step, evaluated)
        metrics |= evaluated
        self.writer.step(metrics)
        self.rescue.finish(step, self._state())
        self.screen.step(metrics, groups)
        if self.callbacks.control.should_training_stop:
            self.schedule.stop()
        is_better = self.best.is_better(evaluated)
        if (self._is_save_due(step) or (is_better and self.config.load_best_model_at_end)) and self.watch.may_save:
            if is_better:
                self._take_best(step, evaluated)
            self.save(step)

    def _is_save_due(self, step: int) -> bool:
        is_due = self.schedule.is_due(step, self.config.save_steps, self.config.save_strategy)
        is_last = step == self.schedule.num_steps and self.config.save_strategy != "no"
        is_asked = self.callbacks.take("should_save") or self.schedule.is_stopping
        return is_due or is_last or is_asked

    def _follow_best(self, step: int, evaluated: Mapping[str, Any]) -> None:
        """The state's best is that of all evaluations, with a checkpoint or without, as callbacks expect it."""
        value = evaluated.get(self.best.metric)
        if self.best.is_above(value, self.state.best_metric):
            self.state.best_metric, self.state.best_global_step = value, step

    def _take_best(self, step: int, evaluated: Mapping[str, Any]) -> None:
        """This step's checkpoint, which is about to be written, is the best one."""
        self.best.take(step, evaluated)
        self.state.best_model_checkpoint = str(self.folder.checkpoint_of(step))

    def end(self) -> None:
        self.watch.end(self.folder, self.learner)
        if self.config.load_best_model_at_end and self.best.step is not None and self.watch.stopped is None:
            self._load_best(self.best.step)
        self.reserve.release()
        self.callbacks.call("on_train_end")

    def _load_best(self, step: int) -> None:
        path = self.folder.checkpoint_of(step)
        try:
            check(path)
            load_weights(path, self.learner.network.model)
            text = (
                f"The model has the weights of step {step}, whose {self.best.metric} of {self.best.value:g} was best."
            )
        except RunError as error:
            text = f"The model keeps the weights of the last step. {error}"
        self.writer.event("best", step=step, message=text)
        self.screen.note(text)

    def evaluate(self) -> dict[str, float | None]:
        """Evaluate now, with an entry of its own in every log; empty without held-out problems."""
        if self.evaluator is None:
            return {}
        self.screen.progress("evaluate", 0, len(self.evaluator.rows))
        metrics = self.evaluator.evaluate(self.state)
        self.screen.evaluation(metrics)
        self.callbacks.evaluated(metrics, self.trackers)
        return metrics

    def save(self, step: int) -> None:
        """Write a checkpoint of the finished step."""
        self._write_checkpoint(step, self._state())
        self.callbacks.call("on_save")
        if self.callbacks.control.should_training_stop:
            self.schedule.stop()

    def save_what_is_exact(self) -> int | None:
        """Write the checkpoint that can still be written exactly when a run breaks off; the step it is of."""
        exact = self.rescue.exact
        if exact is None or exact.step == 0 or not self.watch.may_save:
            return None
        if self.folder.checkpoint_of(exact.step).is_dir():
            return None
        self.reserve.release()
        exact.write_first()
        self._write_checkpoint(exact.step, exact.state)
        return exact.step

    def take_back(self, state: Mapping[str, Any]) -> None:
        """Go on after the step of a checkpoint; weights, optimizer and learner have been put back."""
        self.order.load_state_dict(state["order"])
        self.num_tokens, self.num_updates = state["num_tokens"], state["num_updates"]
        self.schedule.step = state["step"]
        self.watch.load_state_dict(state["watch"])
        self.callbacks.load_state_dict(state["callbacks"])
        if not self.best.load_state_dict(state["best"]):
            self.state.best_metric = self.state.best_global_step = self.state.best_model_checkpoint = None
        self.at_start = state.get("at_start", {})
        if best := self.state.best_model_checkpoint:  # the run may have been moved since
            self.state.best_model_checkpoint = str(self.folder.checkpoints / Path(best).name)
        self._unfinished = state.get("unfinished")
        self.learner.network.refresh()

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds beside tensors; plain JSON."""
        return {
            "order": self.order.state_dict(),
            "num_tokens": self.num_tokens,
            "num_updates": self.num_updates,
            "watch": self.watch.state_dict(),
            "best": self.best.state_dict(),
            "callbacks": self.callbacks.state_dict(),
            "at_start": self.at_start,
            **learner_state(self.learner),
        }

    def _write_checkpoint(self, step: int, state: Mapping[str, Any]) -> None:
        """The records go to the disk first: a checkpoint never knows more steps than they do."""
        start = perf_counter()
        self.writer.flush()
        self.reserve.release()
        keep = self.watch.num_kept(self.config.save_total_limit)
        whole = {**state, "origin": self.origin}
        path = save_checkpoint(self.folder, step, self.learner, whole, keep=keep, best=self.best.step)
        self._hold_room()
        where, seconds = str(path.relative_to(self.folder.path)), perf_counter() - start
        self.writer.event("checkpoint", step=step, path=where, seconds=round(seconds, 3))

    def _hold_room(self) -> None:
        """Keep the disk from running full before the next checkpoint, or say now that it will."""
        num_bytes = num_bytes_of(self.learner)
        if self.config.save_strategy != "no" and not self.reserve.take(num_bytes):
            missing = num_bytes - free_bytes(self.folder.path)
            text = f"The disk has no room for the next checkpoint: {missing:,} bytes more are needed."
            self.writer.event("warning", message=text)
            self.screen.note(text)

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

    def _log(self, metrics: Mapping[str, Any]) -> None:
        """The step's own numbers: an evaluation has an entry of its own."""
        every = self.config.logging_steps
        if self.callbacks.take("should_log") or (every and metrics["step"] % every == 0):
            self.callbacks.log(finite(without_evaluation(metrics)), self.trackers)
