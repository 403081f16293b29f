"""Checkpoints: all that decides how a run goes on. A folder exists whole or not at all; tensors and JSON only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from groupwise.checkpoint.parts import upgraded
from groupwise.checkpoint.state_tree import join, split
from groupwise.errors import ConfigError, GroupwiseError, RunError, words_of
from groupwise.policy.adapter import named_trained
from groupwise.policy.policy_model import PolicyModel
from groupwise.policy.save import ModelWriter, stored_tensors
from groupwise.runs import disk, manifest
from groupwise.runs.folder import RunFolder
from groupwise.train.learner import Learner

STATE = "state"
"""Folder of a checkpoint with all that no model file holds."""
TRAINER_STATE = "trainer_state.json"


def save_checkpoint(
    folder: RunFolder,
    step: int,
    learner: Learner,
    model_writer: ModelWriter,
    state: Mapping[str, Any],
    trainer_state: str,
    *,
    keep: int | None,
    best: int | None,
) -> Path:
    """Write checkpoint-N, then delete the oldest beyond `keep`, but never the one of step `best`.

    `state` is plain JSON: what belongs to the run beside weights, optimizer and reference; `trainer_state` is the
    ecosystem's file, from which nothing is resumed. The model files stand at
    the top, as the ecosystem reads them; trained weights whose exact values they do not hold stand beside the state.

    Raises:
        DiskFullError: and how many bytes are missing; what was there before is as it was.
    """
    target = folder.checkpoint_of(step)
    files, optimizer_state = learner_tensors(learner)
    whole = {"step": step, "optimizer": optimizer_state, **state}
    clear_leftovers(folder)
    with disk.whole_folder(target, _bytes_of(files, learner, model_writer)) as scratch:
        write_model(scratch, learner.policy_model.model, model_writer, whole)
        for name, tensors in files.items():
            save_file(_apart(tensors), scratch / STATE / name)
        (scratch / TRAINER_STATE).write_text(trainer_state, encoding="utf-8")
        manifest.write(scratch)
    _delete_oldest(folder, keep, {step, best})
    return target


def write_model(scratch: Path, model: nn.Module, model_writer: ModelWriter, state: Mapping[str, Any]) -> None:
    """The model files, and the state with the key of every trained weight that they hold."""
    (scratch / STATE).mkdir()
    keys = model_writer.write(scratch)
    rest = {name: tensor for name, tensor in trained_weights(model).items() if name not in keys}
    if rest:
        save_file(_apart(rest), scratch / STATE / "policy.safetensors")
    text = json.dumps({**state, "weights": keys}, default=_plain)
    disk.replace(scratch / STATE / "state.json", text.encode())


def read_state(path: Path) -> dict[str, Any]:
    """The JSON state of a checkpoint, every byte of which is what was written.

    Raises:
        RunError: it is not a checkpoint, or damaged.
    """
    manifest.check(path)
    return upgraded(json.loads((state_folder(path) / "state.json").read_bytes()))


def state_folder(path: Path) -> Path:
    """Where the state of a checkpoint lies: up to format 4, at its top."""
    return path / STATE if (path / STATE).is_dir() else path


def load_checkpoint(path: Path, learner: Learner) -> dict[str, Any]:
    """Put weights, optimizer and schedule back and return the JSON state.

    Raises:
        RunError: the folder is not a checkpoint of this model and recipe, or damaged.
    """
    state = read_state(path)
    restore(path, state, learner)
    return state


def restore(path: Path, state: Mapping[str, Any], learner: Learner) -> None:
    """Put back what `read_state` has found good.

    Raises:
        RunError: every byte is what was written, and groupwise did not write it for this run.
    """
    try:
        _restore(path, state, learner)
    except (GroupwiseError, MemoryError, OSError):
        raise
    except Exception as error:  # a foreign state file can raise anything
        what = f"{type(error).__name__}: {words_of(error, 200)}"
        raise RunError(
            f'The checkpoint "{path}" is whole, but not one of this run ({what}). Resume from another one.'
        ) from error


def _restore(path: Path, state: Mapping[str, Any], learner: Learner) -> None:
    assert isinstance(state["parts"], dict), "a checkpoint has parts"
    load_weights(path, learner.policy_model)
    folder = state_folder(path)
    moments = {name: t.clone() for name, t in load_file(folder / "optimizer.safetensors").items()}  # not file pages
    if (sharded := learner.policy_model.sharded) is not None:
        sharded.loaded_state = state["optimizer"], moments
    else:
        learner.optimizer.load_state_dict(join(state["optimizer"], moments))
    learner.scheduler.load_state_dict(join(state["scheduler"], {}))
    learner.load_state_dict(state["learner"])
    if learner.reference is not None and (folder / "reference.safetensors").is_file():
        learner.reference.load_state_dict(load_file(folder / "reference.safetensors"))


@torch.no_grad()
def load_weights(path: Path, policy_model: PolicyModel) -> None:
    """The trained weights of a checkpoint; where they are in shards, `share_state` brings them there.

    Raises:
        RunError: they are another model's.
    """
    saved, model = _saved_weights(path), policy_model.model
    trained = named_trained(model)
    unknown = sorted(set(saved) - set(trained)) + sorted(
        name for name in saved.keys() & trained.keys() if saved[name].shape != trained[name].shape
    )
    if unknown or len(saved) != len(trained_weights(model)):
        detail = f"for example {unknown[0]}" if unknown else "some of its weights are missing"
        raise RunError(
            f'The checkpoint "{path}" belongs to another model or adapter ({detail}). Resume with the recipe it was '
            "made with."
        )
    if policy_model.sharded is not None:
        policy_model.sharded.loaded = saved
        return
    for name, tensor in saved.items():
        trained[name].copy_(tensor)


def _saved_weights(path: Path) -> dict[str, Tensor]:
    """Trained parameter -> its values, from the model files and, for those that they do not hold, beside the state."""
    folder = state_folder(path)
    keys = json.loads((folder / "state.json").read_bytes()).get("weights", {})
    names = {key: name for name, key in keys.items()}
    beside = folder / "policy.safetensors"
    held = {names[key]: tensor for key, tensor in stored_tensors(path, names)}
    return held | (load_file(beside) if beside.is_file() else {})


def require_saveable(learner: Learner) -> None:
    """Refuse an optimizer or schedule whose state is more than tensors and plain values, now or after its first step.

    Raises:
        ConfigError: naming the first part that is.
    """
    _check_saveable(learner.optimizer)
    _check_saveable(learner.scheduler)
    seen: list[bool] = []

    def look_once(*_: Any) -> None:  # most optimizers make their state in their first step
        if not seen:
            seen.append(True)
            _check_saveable(learner.optimizer)

    learner.optimizer.register_step_post_hook(look_once)


def _check_saveable(owner: Any) -> None:
    try:
        split(owner.state_dict(), {}, "")
    except TypeError as error:
        raise ConfigError(
            f"{type(owner).__name__} cannot be saved in a checkpoint: {error} in its state, and checkpoints hold "
            "tensors, numbers, text, lists and dicts only. Use one whose state_dict() holds nothing else."
        ) from None


def num_bytes_of(learner: Learner, model_writer: ModelWriter) -> int:
    """What a checkpoint will take on the disk; an optimizer that has not stepped yet is taken for AdamW."""
    files, _ = learner_tensors(learner)
    return _bytes_of(files, learner, model_writer) + _ROOM_FOR_JSON


def _bytes_of(files: Mapping[str, Mapping[str, Tensor]], learner: Learner, model_writer: ModelWriter) -> int:
    """Of the model files and of these beside the state."""
    optimizer = _num_bytes(files["optimizer.safetensors"]) or 2 * _num_bytes(
        trained_weights(learner.policy_model.model)
    )
    rest = sum(_num_bytes(tensors) for name, tensors in files.items() if name.startswith("reference"))
    return model_writer.num_bytes + optimizer + rest


_ROOM_FOR_JSON = 2**20


def learner_tensors(learner: Learner) -> tuple[dict[str, dict[str, Tensor]], Any]:
    """File -> its tensors, and the plain part of the optimizer's state."""
    optimizer: dict[str, Tensor] = {}
    plain = split(learner.optimizer.state_dict(), optimizer, "")
    files = {"optimizer.safetensors": optimizer}
    if learner.reference is not None and learner.reference.is_copy:
        files["reference.safetensors"] = _unshared(learner.reference.state_dict())
    return files, plain


def _delete_oldest(folder: RunFolder, keep: int | None, spared: Iterable[int | None]) -> None:
    if keep is not None:
        for old in folder.checkpoint_steps()[:-keep]:
            if old not in spared:
                disk.remove(folder.checkpoint_of(old))


def clear_leftovers(folder: RunFolder) -> None:
    """Delete what a killed run left of checkpoints that it was writing or deleting."""
    for path in folder.path.glob(".checkpoint-*"):
        shutil.rmtree(path, ignore_errors=True)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    return _unshared({name: p.detach() for name, p in named_trained(model).items()})


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One name for each storage: safetensors refuses tensors that share memory (tied embeddings)."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        kept[name] = tensor
    return kept


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with a storage each."""
    ready = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    first = _unshared(ready)
    return {name: tensor if name in first else tensor.clone() for name, tensor in ready.items()}


def _num_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written to a checkpoint")
