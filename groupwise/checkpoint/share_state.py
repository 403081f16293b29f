"""What decides how a run goes on, taken over by every rank from rank 0: weights, optimizer, reference, schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from groupwise.checkpoint.share_shards import share_shards
from groupwise.checkpoint.state_tree import join, split
from groupwise.checkpoint.store import learner_tensors, trained_weights
from groupwise.policy.adapter import named_trained
from groupwise.train.learner import Learner
from groupwise.world import World

TAKE = "take the state of rank 0"
"""The order that the other ranks answer with `share_state`."""


def share_state(learner: Learner, world: World) -> None:
    """Give every rank the learner's state of rank 0, so that a run goes on alike wherever it was read from."""
    if world.size == 1:
        return
    with world.lockstep("taking the state of rank 0"):
        world.order(TAKE)
        if learner.policy_model.sharded is None:
            _share(learner, world)
        else:
            share_shards(learner, learner.policy_model.sharded, world)


def _share(learner: Learner, world: World) -> None:
    device = learner.policy_model.device
    tensors, plain = _state_of(learner)
    mine = ({name: (t.shape, t.dtype) for name, t in tensors.items()}, plain)
    about, plain = world.share(mine, "the learner's state")
    if world.is_leader:
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    else:
        tensors = {name: torch.empty(shape, dtype=dtype, device=device) for name, (shape, dtype) in about.items()}
    world.share_tensors(list(tensors.values()), "the tensors of the learner's state")
    if not world.is_leader:
        _take(learner, tensors, plain)


def _state_of(learner: Learner) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Name -> tensor, and the plain rest."""
    files, optimizer = learner_tensors(learner)
    files["policy"] = trained_weights(learner.policy_model.model)
    plain = {
        "optimizer": optimizer,
        "scheduler": split(learner.scheduler.state_dict(), {}, "scheduler"),
        "learner": learner.state_dict(),
    }
    return {f"{file}/{name}": t for file, held in files.items() for name, t in held.items()}, plain


@torch.no_grad()
def _take(learner: Learner, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    def of(file: str) -> dict[str, Tensor]:
        return {n.removeprefix(f"{file}/"): t for n, t in tensors.items() if n.startswith(f"{file}/")}

    trained = named_trained(learner.policy_model.model)
    for name, tensor in of("policy").items():
        trained[name].copy_(tensor)
    learner.optimizer.load_state_dict(join(plain["optimizer"], of("optimizer.safetensors")))
    learner.scheduler.load_state_dict(join(plain["scheduler"], {}))
    learner.load_state_dict(plain["learner"])
    if learner.reference is not None and (reference := of("reference.safetensors")):
        learner.reference.load_state_dict(reference)
    learner.policy_model.refresh()
