"""Calls the kernels of the output layer; see `head.cpp`. Shapes: N tokens, I hidden width, V vocabulary."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from .build import compiled


@dataclass(frozen=True)
class Softmax:
    """What one chunk of tokens reads off its logits z, with w = exp(z - max z); float32 [N] but `weight_NV`."""

    logprob_N: Tensor
    entropy_N: Tensor
    total_N: Tensor
    """Sum of w."""
    weight_NV: Tensor | None
    """w in bfloat16, where it was asked for, in memory that the next call overwrites."""


def can_serve(weight_VI: Tensor) -> bool:
    """Whether the kernels exist here and take this weight."""
    is_plain = weight_VI.dtype == torch.bfloat16 and weight_VI.is_contiguous() and weight_VI.device.type == "cpu"
    outputs, inputs = weight_VI.shape
    return is_plain and outputs % 2 == 0 and inputs % 32 == 0 and compiled() is not None


_memory: dict[torch.dtype, Tensor] = {}


def _reused(dtype: torch.dtype, rows: int, width: int) -> Tensor:
    """The same memory for every chunk: fresh pages cost a quarter of what is done with them."""
    if dtype not in _memory or _memory[dtype].numel() < rows * width:
        _memory[dtype] = torch.empty(rows * width, dtype=dtype)
    return _memory[dtype][: rows * width].view(rows, width)


def logits(hidden_NI: Tensor, weight_VI: Tensor, bias_V: Tensor | None) -> Tensor:
    """`h W' + b` in float32 of bfloat16 factors, in memory that the next call overwrites."""
    kernels = compiled()
    assert kernels is not None
    x_NI = hidden_NI.bfloat16().contiguous()
    z_NV = _reused(torch.float32, len(x_NI), len(weight_VI))
    pointers = [_pointer(t) for t in (x_NI, weight_VI, bias_V)]
    sizes = [ctypes.c_int64(n) for n in (len(x_NI), x_NI.shape[1], len(weight_VI))]
    kernels.head_logits(*pointers, *sizes, _pointer(z_NV))
    return z_NV


def softmax(z_NV: Tensor, target_N: Tensor, temperature: float, *, with_weights: bool) -> Softmax:
    """Log-prob of the targets and entropy under softmax(z / temperature)."""
    kernels = compiled()
    assert kernels is not None
    num, vocabulary = z_NV.shape
    out = Softmax(
        torch.empty(num),
        torch.empty(num),
        torch.empty(num),
        _reused(torch.bfloat16, num, vocabulary) if with_weights else None,
    )
    target_N = target_N.contiguous()
    kernels.head_softmax(
        _pointer(z_NV),
        ctypes.c_int64(num),
        ctypes.c_int64(vocabulary),
        ctypes.c_float(1.0 / temperature),
        _pointer(target_N),
        *(_pointer(t) for t in (out.weight_NV, out.logprob_N, out.entropy_N, out.total_N)),
    )
    return out


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
