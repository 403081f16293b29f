"""Weights as the kernels read them: as they lie for bfloat16 factors, laid out in panels for float32 ones.

Shapes: O output features, I input features, P panels, W outputs of a panel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .build import compiled


class Panels:
    """A weight laid out for the kernels, kept until another weight or another version of it is asked for."""

    def __init__(self) -> None:
        self._key: tuple[int, int] | None = None
        self._laid_out: Tensor | None = None

    def of(self, weight_OI: Tensor) -> Tensor:
        """Panels [P, I, W] in bfloat16 where that changes no number, else in float32; bfloat16 weights as they are."""
        key = (weight_OI.data_ptr(), weight_OI._version)
        if self._laid_out is None or self._key != key:
            self._key, self._laid_out = key, lay_out(weight_OI, may_halve=True)
        return self._laid_out


def lay_out(weight_OI: Tensor, *, may_halve: bool = False) -> Tensor:
    """[O, I] -> [P, I, W], with outputs of 0 where the last panel is not whole."""
    width = _panel_width(weight_OI.dtype)
    if not width:
        return weight_OI
    weight_OI = weight_OI.detach()
    if may_halve and torch.equal((low_OI := weight_OI.bfloat16()).float(), weight_OI):
        weight_OI = low_OI
    padded_OI = F.pad(weight_OI, (0, 0, 0, -len(weight_OI) % width))
    return padded_OI.view(-1, width, padded_OI.shape[1]).transpose(1, 2).contiguous()


def _panel_width(dtype: torch.dtype) -> int:
    kernels = compiled(dtype)
    assert kernels is not None
    return int(kernels.panel_width())
