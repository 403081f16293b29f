"""What FSDP sends between the ranks, in the sight of the heartbeat: a rank that does not take part is named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from groupwise.world import World


class Traffic:
    """One kind of call; FSDP's own protocol (`AllGather`, `ReduceScatter`)."""

    def __init__(self, world: World, what: str) -> None:
        self.world, self.what = world, what

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class GatherTraffic(Traffic):
    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False) -> Any:
        with self.world.collective(self.what):
            return dist.all_gather_single(output_tensor, input_tensor, group=group, async_op=async_op)


class ReduceTraffic(Traffic):
    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False) -> Any:
        with self.world.collective(self.what):
            return dist.reduce_scatter_single(output_tensor, input_tensor, op=op, group=group, async_op=async_op)


def watch_traffic(part: nn.Module, world: World) -> None:
    """Send what FSDP sends for this module in calls that the heartbeat knows of."""
    part.set_custom_all_gather(GatherTraffic(world, "the shards of a layer"))  # type: ignore[operator]
    part.set_custom_reduce_scatter(ReduceTraffic(world, "the sum of a layer's gradients"))  # type: ignore[operator]
