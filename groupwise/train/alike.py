"""Whether all ranks hold the same weights: a sum over the bits of every parameter, compared over the ranks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from groupwise.errors import RankError
from groupwise.world import World

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_alike(model: nn.Module, world: World, *, trained_only: bool = True) -> None:
    """Compare the parameters over the ranks; of one rank alone nothing is read.

    Raises:
        RankError: two ranks hold different values, naming the first parameter that differs.
    """
    if world.size == 1:
        return
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad or not trained_only]
    sums = world.gather(checksums(p for _, p in named), "the checksums of the parameters")
    for rank, theirs in enumerate(sums):
        if theirs != sums[0]:
            places = [i for i, (a, b) in enumerate(zip(theirs, sums[0], strict=False)) if a != b]
            name = named[places[0]][0] if places else "the number of parameters"
            raise RankError(
                f"Rank {rank} holds other weights than rank 0: {name} differs. Every rank has to load the same model "
                "under the same versions of torch and transformers; training on would average unrelated updates."
            )


@torch.no_grad()
def checksums(tensors: Iterable[Tensor]) -> list[int]:
    """For each tensor the sum of its numbers read as whole ones: equal bits have equal sums."""
    sums = [t.detach().contiguous().view(_BITS[t.element_size()]).sum(dtype=torch.int64) for t in tensors]
    return [int(each) for each in torch.stack(sums).tolist()] if sums else []
