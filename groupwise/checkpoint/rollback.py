"""Rolls a run back to its last good checkpoint."""

from __future__ import annotations

import logging
import shutil

from groupwise.checkpoint.store import load_checkpoint
from groupwise.errors import RunError
from groupwise.runs.folder import SET_ASIDE, RunFolder
from groupwise.train.learner import Learner

_log = logging.getLogger(__name__)


def roll_back(folder: RunFolder, learner: Learner, *, before: int) -> int | None:
    """Load the newest checkpoint from before step `before`; returns its step, None when there is none.

    Later checkpoints, and damaged ones, are set aside under another name, so that a resumed run starts at this one too.
    Without a good one everything stays as it is.
    """
    for step in reversed([step for step in folder.checkpoint_steps() if step < before]):
        try:
            load_checkpoint(folder.checkpoint_of(step), learner)
        except RunError as error:
            _log.warning(f"The checkpoint of step {step} cannot be loaded, so an older one is tried: {error}")
            continue
        learner.policy_model.refresh()
        set_aside_after(folder, step)
        return step
    return None


def set_aside_after(folder: RunFolder, step: int) -> None:
    """Rename every checkpoint later than `step`; one that was set aside before under that name makes way."""
    for later in folder.checkpoint_steps():
        if later > step:
            path = folder.checkpoint_of(later)
            aside = path.with_name(SET_ASIDE + path.name)
            if aside.exists():
                shutil.rmtree(aside)
            path.rename(aside)
