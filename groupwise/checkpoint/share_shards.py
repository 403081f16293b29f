"""What rank 0 has read of a checkpoint, brought to the shards of every rank: whole tensors travel one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from groupwise.checkpoint.state_tree import join, split
from groupwise.policy.sharded_weights import ShardedWeights
from groupwise.train.learner import Learner
from groupwise.world import World


def share_shards(learner: Learner, sharded: ShardedWeights, world: World) -> None:
    """Give every rank its part of what rank 0 has loaded; what was not loaded stays as it is."""
    for name, whole in _travel(sharded.loaded, learner, world):
        sharded.put(name, whole)
    plain, moments = world.share(sharded.loaded_state, "the optimizer's state") or (None, {})
    found = {
        name: sharded.cut(whole) if whole.dim() else whole.clone() for name, whole in _travel(moments, learner, world)
    }
    if plain is not None:
        learner.optimizer.load_state_dict(join(plain, found))
    _share_rest(learner, world)
    sharded.loaded, sharded.loaded_state = {}, None
    sharded.spread()
    learner.policy_model.refresh()


def _share_rest(learner: Learner, world: World) -> None:
    """Schedule, counts and the reference, which are whole on every rank."""
    mine = split(learner.scheduler.state_dict(), {}, "scheduler"), learner.state_dict()
    scheduler, state = world.share(mine, "the learner's state")
    reference = {} if learner.reference is None else learner.reference.state_dict()
    world.share_tensors(list(reference.values()), "the reference")
    if world.is_leader:
        return
    learner.scheduler.load_state_dict(join(scheduler, {}))
    learner.load_state_dict(state)
    if learner.reference is not None:
        learner.reference.load_state_dict(reference)


def _travel(mine: Mapping[str, Tensor], learner: Learner, world: World) -> Iterator[tuple[str, Tensor]]:
    """The tensors of rank 0, one after another, on every rank."""
    device = learner.policy_model.device
    about: Any = {name: (tensor.shape, tensor.dtype) for name, tensor in mine.items()}
    for name, (shape, dtype) in world.share(about, "the names of the tensors").items():
        whole = mine[name].to(device) if world.is_leader else torch.empty(shape, dtype=dtype, device=device)
        world.share_tensors([whole], f"the tensor {name}")
        yield name, whole
