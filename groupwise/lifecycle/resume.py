"""Resumes a stopped run from its newest complete checkpoint, with one history."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch.optim.lr_scheduler import LambdaLR

from groupwise.checkpoint.fingerprint import about_length, about_machine, compare, refuse_another_experiment
from groupwise.checkpoint.move import move_to_today
from groupwise.checkpoint.parts import put_back
from groupwise.checkpoint.rollback import set_aside_after
from groupwise.checkpoint.store import clear_leftovers, read_state, restore
from groupwise.config.changes import Change
from groupwise.errors import ConfigError, RunError
from groupwise.lifecycle.run import Run
from groupwise.runs import schema_1
from groupwise.runs.folder import RunFolder
from groupwise.runs.reader import RunReader
from groupwise.torch_internals import set_last_lr
from groupwise.train.learner import Learner
from groupwise.train.step import StepRecord
from groupwise.ways_out import ways_out

_log = logging.getLogger(__name__)

_OF_OPTIMIZER = ("learning_rate", "lr_scheduler", "warmup_", "weight_decay", "adam_", "the optimizer")


def resume(run: Run, wanted: Literal[True] | str | Path, *, allow_changes: bool) -> Path | None:
    """Go on after a checkpoint, True being the newest whole one; None where the run has none and begins again.

    Raises:
        ConfigError: there is nothing to resume, or it would be another experiment.
        RunError: the checkpoint that was asked for is damaged, or another model's.
    """
    folder, origin = run.outputs.folder, run.checkpoints.writer.origin
    if wanted is True:
        found = newest_whole(folder, lambda text: _report(run, "checkpoint_damaged", text))
    else:
        found = Path(wanted), read_state(Path(wanted))
    if found is None:
        _in_todays_layout(run, folder.path, 0)
        _begin_again(run)
        return None
    path, state = found
    differences = compare(state["origin"], origin)
    if not allow_changes:
        refuse_another_experiment(differences)
    path = _in_todays_layout(run, path, state["step"])
    _restore(path, state, run, differences)
    again = [m["step"] for m in RunReader(folder).metrics() if m["step"] > state["step"]]
    if again:
        which = f"step {again[0]}" if len(again) == 1 else f"steps {again[0]} to {again[-1]}"
        _log.info(f"Recorded after the checkpoint of step {state['step']}, and done again: {which}.")
    cut(folder, state["step"], is_unfinished="unfinished" in state)
    run.log.read_back(RunReader(folder).metrics(), run.evaluation.at_start)
    if state["step"] >= run.schedule.num_steps:
        run.outputs.callbacks.close_again(_closing_entry(folder, state["step"]), state["step"])
    for change in differences:
        _report(run, "recipe_changed", f"{change}.")
    for text in (about_length(state["origin"], origin, state["step"]), about_machine(state["origin"], origin)):
        if text is not None:
            _report(run, "recipe_changed", text)
    return path


def _closing_entry(folder: RunFolder, step: int) -> Mapping[str, Any]:
    """The last log entry of the run that ended after this step; empty where none is recorded."""
    ends = [event for event in RunReader(folder).events() if event["kind"] == "end" and event.get("step") == step]
    return (ends[-1].get("closing") if ends else None) or {}


def _in_todays_layout(run: Run, path: Path, step: int) -> Path:
    """The checkpoint of `step`, once a run of schema 1 has been moved to the names of today."""
    folder = run.outputs.folder
    if not move_to_today(folder, run.learner, run.checkpoints.writer.model_writer):
        return path
    _report(run, "moved", "The run has the file names of today: run.json, and its checkpoints are checkpoint-N.")
    return folder.checkpoint_of(step) if not path.is_dir() else path


def newest_whole(folder: RunFolder, report: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint of which every byte is right, and its state; None where the run has not got so far.

    Raises:
        ConfigError: no run was ever started here.
        RunError: there are checkpoints, and all of them are damaged.
    """
    if not folder.is_run:
        raise ConfigError(
            f'"{folder.path}" has no checkpoint to resume from: no run was started there. Train without resuming, or '
            "look at output_dir."
        )
    damage = []
    earlier = schema_1.checkpoints(folder.path)
    for step in sorted({*folder.checkpoint_steps(), *earlier}, reverse=True):
        path = folder.checkpoint_of(step) if folder.checkpoint_of(step).is_dir() else earlier[step]
        try:
            found = path, read_state(path)
        except RunError as error:
            damage.append(str(error))
            continue
        for text in damage:
            report(f"{text} The checkpoint of step {step} is used instead.")
        return found
    if damage:
        raise RunError(
            f"{' '.join(damage)} There is no other checkpoint to go on from: bring one back from a backup, or start "
            f"the run again ({ways_out().overwrite})."
        )
    return None


def cut(folder: RunFolder, step: int, *, is_unfinished: bool = False) -> None:
    """Make one history: later checkpoints are set aside, then metrics and completions later than `step` deleted.

    In this order: whatever a crash in between leaves has all the records of its newest checkpoint. The record of an
    unfinished step is still to be written, and its completions are there.
    """
    clear_leftovers(folder)
    set_aside_after(folder, step)
    RunReader(folder).cut_after(step, last_metrics=step - 1 if is_unfinished else step)


def _begin_again(run: Run) -> None:
    folder = run.outputs.folder
    cut(folder, 0)
    run.log.read_back([], {})
    _log.info(f'"{folder.path}" has no checkpoint yet, so the run begins again with step 1.')


def _restore(path: Path, state: dict[str, Any], run: Run, differences: list[Change]) -> None:
    """Weights, optimizer and every part as the checkpoint holds them; the recipe's own optimizer settings win."""
    learner = run.learner
    is_new_schedule = state["origin"]["num_steps"] != run.checkpoints.writer.origin["num_steps"]
    is_new_optimizer = any(change.key.startswith(_OF_OPTIMIZER) for change in differences)
    groups, rates = _settings(learner)
    restore(path, state, learner)
    if is_new_schedule or is_new_optimizer:
        _use(learner, groups, rates)
    _put_back(run, state)


def _put_back(run: Run, state: Mapping[str, Any]) -> None:
    put_back(run.parts, state)
    run.schedule.step = state["step"]
    if not run.checkpoints.best.is_comparable(state["parts"]["best"]):
        run.state.best_metric = run.state.best_global_step = run.state.best_model_checkpoint = None
    if run.state.best_model_checkpoint and (best := run.checkpoints.best.step) is not None:
        run.state.best_model_checkpoint = str(run.outputs.folder.checkpoint_of(best))  # the run may have been moved
    if (unfinished := state.get("unfinished")) is not None:
        metrics = unfinished["metrics"]
        run.hooks.unfinished = StepRecord(metrics["step"], metrics, is_evaluation_asked=unfinished["is_eval_due"])
    run.learner.policy_model.refresh()


def _settings(learner: Learner) -> tuple[list[dict[str, Any]], list[Any]]:
    """The optimizer settings of the current recipe, and its peak learning rates."""
    groups = [{k: v for k, v in g.items() if k not in ("params", "lr")} for g in learner.optimizer.param_groups]
    return groups, list(getattr(learner.scheduler, "base_lrs", ()))


def _use(learner: Learner, groups: list[dict[str, Any]], peaks: list[Any]) -> None:
    """Apply them over the checkpoint's, at the position that the schedule has reached."""
    for group, values in zip(learner.optimizer.param_groups, groups, strict=True):
        group.update(values)
    scheduler = learner.scheduler
    if isinstance(scheduler, LambdaLR):  # every schedule of ours; a user's own goes its own way
        place = scheduler.last_epoch
        rates: list[Any] = [peak * f(place) for peak, f in zip(peaks, scheduler.lr_lambdas, strict=True)]
        for group, rate in zip(learner.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler.base_lrs = peaks
        set_last_lr(scheduler, rates)


def _report(run: Run, kind: str, text: str) -> None:
    run.outputs.writer.event(kind, message=text)
    _log.warning(text)
