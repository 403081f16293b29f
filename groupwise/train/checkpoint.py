"""Checkpoints: all that decides how a run goes on. A folder exists whole or not at all; tensors and JSON only."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import RunError
from ..runs.folder import RunFolder
from .learner import Learner

FORMAT = 2


def save_checkpoint(folder: RunFolder, step: int, learner: Learner, state: Mapping[str, Any], keep: int | None) -> Path:
    """Write checkpoints/step-NNNNNN and delete the oldest beyond `keep`. `state` is plain JSON."""
    target = folder.checkpoint_of(step)
    scratch = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    optimizer_tensors, optimizer_state = flatten_optimizer(learner.optimizer.state_dict())
    save_file(_trained_weights(learner.network.model), scratch / "policy.safetensors")
    save_file(optimizer_tensors, scratch / "optimizer.safetensors")
    if learner.reference is not None and learner.reference.is_copy:
        save_file(_unshared(learner.reference.state_dict()), scratch / "reference.safetensors")
    record = {
        "format": FORMAT,
        "step": step,
        "optimizer": optimizer_state,
        "scheduler": learner.scheduler.state_dict(),
        "learner": learner.state_dict(),
        **state,
    }
    (scratch / "state.json").write_text(json.dumps(record, default=_plain), encoding="utf-8")
    for file in scratch.iterdir():
        _flush(file)
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)
    _flush(target.parent)
    if keep is not None:
        for old in folder.checkpoint_steps()[:-keep]:
            shutil.rmtree(folder.checkpoint_of(old))
    return target


def load_checkpoint(path: Path, learner: Learner) -> dict[str, Any]:
    """Put weights, optimizer and schedule back and return the JSON state.

    Raises:
        RunError: the folder is not a checkpoint of this model and recipe.
    """
    if not (path / "state.json").is_file():
        raise RunError(
            f'"{path}" is not a checkpoint: it has no state.json. Give a folder checkpoints/step-NNNNNN of a run.'
        )
    state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state.get("format") != FORMAT:
        raise RunError(f'"{path}" has checkpoint format {state.get("format")}; this version reads {FORMAT}.')
    _load_trained(learner.network.model, load_file(path / "policy.safetensors"), path)
    learner.optimizer.load_state_dict(
        unflatten_optimizer(load_file(path / "optimizer.safetensors"), state["optimizer"])
    )
    learner.scheduler.load_state_dict(state["scheduler"])
    learner.load_state_dict(state["learner"])
    if learner.reference is not None and (path / "reference.safetensors").is_file():
        learner.reference.load_state_dict(load_file(path / "reference.safetensors"))
    return state


def _trained_weights(model: nn.Module) -> dict[str, Tensor]:
    return _unshared({name: p.detach() for name, p in model.named_parameters() if p.requires_grad})


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One name for each storage: safetensors refuses tensors that share memory (tied embeddings)."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in tensors.items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        kept[name] = tensor.contiguous().cpu()
    return kept


@torch.no_grad()
def _load_trained(model: nn.Module, saved: Mapping[str, Tensor], path: Path) -> None:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    unknown = sorted(set(saved) - set(trained)) + sorted(
        name for name in saved.keys() & trained.keys() if saved[name].shape != trained[name].shape
    )
    if unknown or len(saved) != len(_trained_weights(model)):
        detail = f"for example {unknown[0]}" if unknown else "some of its weights are missing"
        raise RunError(
            f'The checkpoint "{path}" belongs to another model or adapter ({detail}). Resume with the recipe it was '
            "made with."
        )
    for name, tensor in saved.items():
        trained[name].copy_(tensor)


def flatten_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and plain values."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        plain[str(index)] = {}
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.detach().contiguous().cpu()
            else:
                plain[str(index)][name] = value
    return tensors, {"state": plain, "param_groups": state["param_groups"]}


def unflatten_optimizer(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in plain["state"].items()}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    return {"state": state, "param_groups": [_as_group(g) for g in plain["param_groups"]]}


def _as_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """JSON turns tuples into lists; torch wants Adam's betas as they were."""
    return {name: tuple(value) if name == "betas" else value for name, value in group.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written to a checkpoint")


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
