"""Moves a run of schema 1 to the names and files of today, so that it can be resumed (`runs/schema_1.py`)."""

from __future__ import annotations

import shutil
from pathlib import Path

from groupwise.checkpoint.store import STATE, load_weights, num_bytes_of, read_state, write_model
from groupwise.errors import ConfigError, RunError
from groupwise.policy.save import ModelWriter
from groupwise.runs import disk, manifest, schema_1
from groupwise.runs.folder import SET_ASIDE, RunFolder, checkpoint_name
from groupwise.train.learner import Learner


def move_to_today(folder: RunFolder, learner: Learner, model_writer: ModelWriter) -> bool:
    """Whether there was something to move. The learner's model is left with the weights of some checkpoint.

    Each file and checkpoint appears whole under its new name before the old one goes, so that a kill at any point
    leaves a run that moving again completes.
    """
    if not schema_1.is_run(folder.path):
        return False
    if learner.policy_model.sharded is not None:
        raise ConfigError(
            f'The run in "{folder.path}" has the files of an older version, which are read into whole weights. Resume '
            "it once with shard: none, on one rank."
        )
    for step, old in schema_1.checkpoints(folder.path).items():
        _move_checkpoint(old, folder.checkpoint_of(step), learner, model_writer)
    for step, aside in schema_1.set_aside(folder.path).items():
        aside.rename(folder.path / f"{SET_ASIDE}{checkpoint_name(step)}")
    schema_1.remove_leftovers(folder.path)
    if (config := schema_1.config_of(folder.path)) is not None:
        config.replace(folder.run_json)
    return True


def _move_checkpoint(old: Path, new: Path, learner: Learner, model_writer: ModelWriter) -> None:
    if new.is_dir():  # a kill came between the two
        disk.remove(old)
        return
    try:
        state = read_state(old)
    except RunError:
        old.rename(new)  # a damaged one stays damaged, and resuming names the damage
        return
    load_weights(old, learner.policy_model)
    with disk.whole_folder(new, num_bytes_of(learner, model_writer)) as scratch:
        write_model(scratch, learner.policy_model.model, model_writer, state)
        for name in ("optimizer.safetensors", "reference.safetensors"):
            if (old / name).is_file():
                shutil.copyfile(old / name, scratch / STATE / name)
        manifest.write(scratch)
    disk.remove(old)
