"""Working memory that one owner reuses: fresh pages cost a quarter of what a kernel does with them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Buffer:
    """Memory of one owner and one thread. A tensor from `take` is valid until the next `take`.

    The owner passes no such tensor on to its own caller.
    """

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def take(self, dtype: torch.dtype, *shape: int) -> Tensor:
        """An uninitialised CPU tensor of this dtype and shape, in the memory of the last one where that is enough."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if len(self._bytes) < num_bytes:
            self._bytes = torch.empty(num_bytes, dtype=torch.uint8)
        return self._bytes[:num_bytes].view(dtype).view(shape)
