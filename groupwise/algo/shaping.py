"""Rewards made from lengths, to be added to the task's reward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from groupwise.errors import ConfigError


def overlong_penalty(lengths_N: Tensor | Sequence[int], max_length: int, cache_length: int) -> Tensor:
    """DAPO's soft overlong punishment (2503.14476, eq. 13), in tokens.

    0 up to max_length - cache_length, then linear down to -1 at max_length, and -1 beyond.
    """
    if not 0 < cache_length <= max_length:
        raise ConfigError(f"overlong: cache_length is {cache_length}; expected 1 to max_length = {max_length}.")
    lengths = torch.as_tensor(lengths_N).double()
    return ((max_length - cache_length - lengths) / cache_length).clamp(-1.0, 0.0)
