"""Weights as the kernels read them, in the fewest bits that lose nothing.

For bfloat16 factors they are read as they lie, or in 4 bits where they came from a 4-bit file (`codes.h`); for float32
ones laid out in panels, in bfloat16 where that is exact.

Shapes: O output features, I input features, P panels, W outputs of a panel.
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from groupwise.kernels.build import compiled
from groupwise.torch_internals import version_of

_Int = ctypes.c_int64


class PanelCache:
    """A weight laid out for the kernels, kept until another weight or another version of it is asked for."""

    def __init__(self) -> None:
        self._key: tuple[int, int] | None = None
        self._laid_out: Tensor | None = None

    def get(self, weight_OI: Tensor) -> Tensor:
        """The weight, or bytes of codes, or panels [P, I, W]."""
        key = (weight_OI.data_ptr(), version_of(weight_OI))
        if self._laid_out is None or self._key != key:
            self._key, self._laid_out = key, pack_weight(weight_OI, may_shrink=True)
        return self._laid_out


def pack_weight(weight_OI: Tensor, *, may_shrink: bool = False) -> Tensor:
    """[O, I] -> [P, I, W], with outputs of 0 where the last panel is not whole; bfloat16 weights as they are.

    `may_shrink` looks for fewer bits that lose nothing; a dtype other than the weight's shows that they were found.
    """
    width = _panel_width(weight_OI.dtype)
    if not width:
        codes = _encode(weight_OI) if may_shrink else None
        return weight_OI if codes is None else codes
    weight_OI = weight_OI.detach()
    if may_shrink and torch.equal((low_OI := weight_OI.bfloat16()).float(), weight_OI):
        weight_OI = low_OI
    padded_OI = F.pad(weight_OI, (0, 0, 0, -len(weight_OI) % width))
    return padded_OI.view(-1, width, padded_OI.shape[1]).transpose(1, 2).contiguous()


def _encode(weight_OI: Tensor) -> Tensor | None:
    """Codes of 4 bits for bfloat16 weights that these reproduce exactly, else None."""
    kernels = compiled(weight_OI.dtype)
    assert kernels is not None
    sizes = [_Int(n) for n in weight_OI.shape]
    codes = torch.empty(kernels.coded_bytes(*sizes), dtype=torch.uint8)
    weight, to = (ctypes.c_void_p(t.data_ptr()) for t in (weight_OI, codes))
    return codes if len(codes) and kernels.encode_weights(weight, *sizes, to) else None


def _panel_width(dtype: torch.dtype) -> int:
    kernels = compiled(dtype)
    assert kernels is not None
    return int(kernels.panel_width())
