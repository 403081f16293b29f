"""Clean-up when a run ends or breaks off: the event, open files and trackers, and a report of what is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groupwise.diagnose.doctor import Examination, closing_lines
from groupwise.errors import RunError
from groupwise.lifecycle.run import Run
from groupwise.lifecycle.signals import Interrupted
from groupwise.runs.folder import RunFolder


@contextmanager
def report_on_abort(run: Run, resume_with: str) -> Iterator[None]:
    """An error inside, a second Ctrl-C too, is raised again when the run folder and the terminal are in order.

    `resume_with` is the command or call that resumes the run.
    """
    owner = os.getpid()
    try:
        yield
    except BaseException as error:
        if os.getpid() != owner:  # a child that a reward has forked: the run goes on without it
            raise
        kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        problems = [] if kind == "interrupted" else _save_exact(run)
        run.checkpoints.writer.reserve.release()
        num_steps = run.schedule.step
        try:
            run.outputs.writer.event(kind, step=num_steps, error=f"{type(error).__name__}: {error}")
        except RunError as refused:  # the disk that ended the run; the error itself is on its way
            problems.append(str(refused))
        run.outputs.trackers.finish()
        run.outputs.screen.close("\n".join([what_is_kept(num_steps, run.outputs.folder, resume_with), *problems]))
        raise


@contextmanager
def stopped_at_the_start(folder: RunFolder, resume_with: str) -> Iterator[None]:
    """Ctrl-C inside, before the first step, is raised again with a sentence on what the run folder holds."""
    try:
        yield
    except KeyboardInterrupt:
        checkpoint = folder.latest_checkpoint
        kept = f"The checkpoint {checkpoint} is as it was. To go on from it: {resume_with}"
        words = what_is_kept(0, folder, resume_with) if checkpoint is None else f"Stopped before the next step. {kept}"
        raise KeyboardInterrupt(words) from None


def _save_exact(run: Run) -> list[str]:
    """Save what can be saved exactly; what stands in the way is shown and hides nothing."""
    try:
        run.checkpoints.save_exact()
    except (RunError, OSError, RuntimeError, MemoryError) as error:
        return [f"No checkpoint could be written on the way out. {error}"]
    return []


def record_end(run: Run, interrupted: Interrupted) -> None:
    """Write the last events of a run that was not broken off."""
    schedule, writer = run.schedule, run.outputs.writer
    if interrupted.signal is not None:
        writer.event("interrupted", step=schedule.step, signal=interrupted.name)
    is_complete = schedule.step == schedule.num_steps
    writer.event("end", step=schedule.step, is_complete=is_complete, closing=run.outputs.callbacks.closing)


def what_is_done(run: Run, report: Path, examination: Examination, resume_with: str) -> str:
    """The last lines on screen: what came of the run, where it lies, and how one that ended early is resumed."""
    schedule, folder = run.schedule, run.outputs.folder
    lines = [
        *([run.guards.outcome] if run.guards.is_stopped else []),
        f"{schedule.step} of {schedule.num_steps} steps done.",
        *closing_lines(examination),
        f"model   {folder.final}",
        f"report  {report}",
        f"records {folder.path}",
    ]
    if schedule.step < schedule.num_steps:
        steps = folder.checkpoint_steps() if run.guards.can_resume else []
        resume = f" To go on from the checkpoint of step {steps[-1]}: {resume_with}" if steps else ""
        lines.append(f"Ended by {schedule.stopped_by}.{resume}")
    return "\n".join(lines)


def what_is_kept(num_steps: int, folder: RunFolder, resume_with: str) -> str:
    """A sentence for the user of a run that has broken off."""
    if num_steps == 0:
        return f"Broken off before a step was finished: there is nothing to keep in {folder.path}."
    steps = "1 finished step" if num_steps == 1 else f"{num_steps} finished steps"
    kept = f"Broken off after {steps}. Kept: the records in {folder.path}"
    checkpoint = folder.latest_checkpoint
    if checkpoint is None:
        return f"{kept}, and no checkpoint, as none was due yet (save_steps)."
    return f"{kept}, and the checkpoint {checkpoint}. To go on from it: {resume_with}"
