"""Whole weights where they are in shards: gathered on all ranks before rank 0 writes anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from groupwise.errors import RunError
from groupwise.policy.policy_model import PolicyModel
from groupwise.policy.sharded_weights import ShardedWeights
from groupwise.train.learner import Learner

GATHER = "gather the weights"
"""The order with which rank 0 has the others take part; it comes with whether the optimizer's state is wanted too."""

Place = tuple[Tensor, str]
"""Parameter and name of a tensor of the optimizer's state."""


@contextmanager
def whole_model(policy_model: PolicyModel) -> Iterator[None]:
    """Inside, on rank 0, the model holds every trained weight whole, in float32."""
    sharded = policy_model.sharded
    if sharded is None:
        yield
        return
    _order(sharded, with_optimizer=False)
    with sharded.holding(gather_weights(sharded)):
        yield


@contextmanager
def whole_learner(learner: Learner) -> Iterator[None]:
    """Inside, on rank 0, the model and the optimizer's state are whole."""
    sharded = learner.policy_model.sharded
    if sharded is None:
        yield
        return
    _order(sharded, with_optimizer=True)
    weights, moments = gather_weights(sharded), gather_moments(sharded, learner.optimizer)
    state = learner.optimizer.state
    shards = {place: state[place[0]][place[1]] for place in moments}
    try:
        for (parameter, name), whole in moments.items():
            state[parameter][name] = whole
        with sharded.holding(weights):
            yield
    finally:
        for (parameter, name), shard in shards.items():
            state[parameter][name] = shard


def follow_gathering(policy_model: PolicyModel, learner: Learner | None) -> None:
    """On another rank: take part in what rank 0 gathers."""
    assert policy_model.sharded is not None, "rank 0 has shards, so has this rank"
    gather_weights(policy_model.sharded)
    if learner is not None:
        gather_moments(policy_model.sharded, learner.optimizer)


def _order(sharded: ShardedWeights, *, with_optimizer: bool) -> None:
    if sharded.world.is_broken:
        raise RunError("The weights are in shards, and a rank that holds some is missed: they cannot be gathered.")
    sharded.world.order(GATHER, with_optimizer)


def gather_weights(sharded: ShardedWeights) -> dict[str, Tensor]:
    """Trained weight -> its values, on rank 0; every rank has to call it."""
    with sharded.world.lockstep("gathering the weights"):
        return sharded.gather()


@torch.no_grad()
def gather_moments(sharded: ShardedWeights, optimizer: Any) -> dict[Place, Tensor]:
    """The optimizer's sharded tensors, whole, on rank 0; every rank has to call it."""
    found: dict[Place, Tensor] = {}
    with sharded.world.lockstep("gathering the optimizer's state"):
        for name, parameter in sharded.masters.items():
            for key, value in sorted(optimizer.state.get(parameter, {}).items()):
                if isinstance(value, DTensor):
                    whole = sharded.gathered(f"{key} of {name}", value)
                    if sharded.world.is_leader:
                        found[parameter, key] = whole.cpu()
    return found
