"""Clean-up when a run ends or breaks off: the event, open files and trackers, and a report of what is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from groupwise.errors import RunError
from groupwise.lifecycle.run import Run
from groupwise.runs.folder import RunFolder


@contextmanager
def report_on_abort(run: Run) -> Iterator[None]:
    """An error inside, a second Ctrl-C too, goes on when the run folder and the terminal are in order."""
    owner = os.getpid()
    try:
        yield
    except BaseException as error:
        if os.getpid() != owner:  # a child that a reward has forked: the run goes on without it
            raise
        kind = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        problems = [] if kind == "interrupted" else _save_exact(run)
        run.checkpoints.reserve.release()
        num_steps = run.schedule.step
        try:
            run.outputs.writer.event(kind, step=num_steps, error=f"{type(error).__name__}: {error}")
        except RunError as refused:  # the disk that ended the run; the error itself is on its way
            problems.append(str(refused))
        run.outputs.trackers.finish()
        run.outputs.screen.close("\n".join([what_is_kept(num_steps, run.outputs.folder), *problems]))
        raise


def _save_exact(run: Run) -> list[str]:
    """Save what can be saved exactly; what stands in the way is shown and hides nothing."""
    try:
        run.checkpoints.save_exact()
    except (RunError, OSError, RuntimeError, MemoryError) as error:
        return [f"No checkpoint could be written on the way out. {error}"]
    return []


def what_is_done(run: Run, report: Path) -> str:
    """The last words on screen: what came of the run and where it lies."""
    schedule, folder = run.schedule, run.outputs.folder
    ended_by_guard = f"{run.guards.outcome}\n" if run.guards.stopped is not None else ""
    return (
        f"{ended_by_guard}{schedule.step} of {schedule.num_steps} steps done.\n"
        f"model   {folder.final}\nreport  {report}\nrecords {folder.path}"
    )


def what_is_kept(num_steps: int, folder: RunFolder) -> str:
    """A sentence for the user of a run that has ended early."""
    if num_steps == 0:
        return f"Broken off before a step was finished: there is nothing to keep in {folder.path}."
    checkpoint = folder.latest_checkpoint
    goes_on = (
        f"the checkpoint {checkpoint}, from which groupwise train {folder.path} --resume or "
        "train(resume_from_checkpoint=True) goes on"
        if checkpoint
        else "no checkpoint, as none was due yet (save_steps)"
    )
    steps = "1 finished step" if num_steps == 1 else f"{num_steps} finished steps"
    return f"Broken off after {steps}. Kept: the records in {folder.path}, and {goes_on}."
