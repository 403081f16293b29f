"""What `shard: full` makes of a run: refused, without effect, or shards of the trained weights on every rank."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule

from groupwise.config import Settings
from groupwise.errors import ConfigError
from groupwise.policy.adapter import has_adapter
from groupwise.policy.policy_model import PolicyModel
from groupwise.policy.quantized import quantization_of
from groupwise.policy.sharded_weights import ShardedWeights
from groupwise.train.alike import check_alike
from groupwise.world import World

_log = logging.getLogger(__name__)


def check_sharding(config: Settings, world: World, model: Any, optimizers: tuple[Any, Any]) -> None:
    """Refuse, before anything is loaded, what cannot be sharded; on one rank nothing is.

    Raises:
        ConfigError: an optimizer over whole weights, quantized weights, or a torch without what is needed.
    """
    if config.shard == "none" or world.size == 1:
        return
    if optimizers[0] is not None:
        raise ConfigError(
            f"The {type(optimizers[0]).__name__} given in optimizers holds whole weights, and shard: full leaves each "
            "rank a part of them. Name the optimizer by optim, or use shard: none."
        )
    if isinstance(model, nn.Module) and (method := quantization_of(model)) is not None:
        raise ConfigError(f"shard: full cannot cut quantized weights ({method}), which are frozen. Use shard: none.")
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ConfigError("shard: full needs the FSDP2 of torch 2.13 or later. Update torch, or use shard: none.")


def shard(policy_model: PolicyModel, config: Settings, world: World) -> None:
    """Cut the trained weights over the ranks, where the configuration has it and there is something to cut.

    Raises:
        ConfigError: the model takes the slow path, whose passes read no whole weights beside the shards.
        RankError: the ranks have loaded different weights.
    """
    if config.shard == "none":
        return
    if world.size == 1:
        _log.warning("shard: full has no effect on one rank, which holds everything. Start several with torchrun.")
        return
    if has_adapter(policy_model.model):
        _log.warning(
            "shard: full has nothing to cut under an adapter: every rank holds the adapter, which is small, and the "
            "frozen base, which it samples with. The run trains as with shard: none."
        )
        return
    if policy_model.fused is None:
        raise ConfigError(
            f"shard: full cannot train this model, which takes the slow path: {policy_model.why_plain}. Use shard: "
            "none."
        )
    with world.lockstep("cutting the weights"):
        check_alike(policy_model.model, world)
        checkpointing = config.gradient_checkpointing
        policy_model.sharded = ShardedWeights(
            policy_model.model, policy_model.fused, world, gradient_checkpointing=checkpointing
        )
