"""Calls the kernels of the output layer; see `head.cpp`. Shapes: N tokens, I hidden width, V vocabulary."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from groupwise.kernels.buffer import Buffer
from groupwise.kernels.build import compiled
from groupwise.kernels.panels import PanelCache


@dataclass(frozen=True)
class Softmax:
    """Results for one chunk of tokens with logits z and w = exp(z - max z); float32 [N] except `weight_NV`."""

    logprob_N: Tensor
    entropy_N: Tensor
    total_N: Tensor
    """Sum of w."""
    weight_NV: Tensor | None
    """w in the dtype of factors, where the call asks for it."""


def can_serve(weight_VI: Tensor) -> bool:
    """Whether the kernels exist here and take this weight."""
    is_plain = weight_VI.is_contiguous() and weight_VI.device.type == "cpu"
    outputs, inputs = weight_VI.shape
    return is_plain and outputs % 2 == 0 and inputs % 32 == 0 and compiled(weight_VI.dtype) is not None


def logits(
    hidden_NI: Tensor, weight_VI: Tensor, bias_V: Tensor | None, panels: PanelCache, buffer: Buffer | None = None
) -> Tensor:
    """`h W' + b` in float32 of factors in the weight's dtype: a new tensor, or memory of the caller's `buffer`."""
    kernels = compiled(weight_VI.dtype)
    assert kernels is not None
    x_NI = hidden_NI.to(weight_VI.dtype).contiguous()
    z_NV = (buffer or Buffer()).take(torch.float32, len(x_NI), len(weight_VI))
    laid_out = panels.get(weight_VI)
    is_low = ctypes.c_int64(laid_out.dtype != weight_VI.dtype)
    sizes = [ctypes.c_int64(n) for n in (len(x_NI), x_NI.shape[1], len(weight_VI))]
    kernels.head_logits(_pointer(x_NI), _pointer(laid_out), is_low, _pointer(bias_V), *sizes, _pointer(z_NV))
    return z_NV


def softmax(
    z_NV: Tensor,
    target_N: Tensor,
    temperature: float,
    dtype: torch.dtype,
    *,
    with_weights: bool,
    buffer: Buffer | None = None,
) -> Softmax:
    """Log-prob of the targets and entropy under softmax(z / temperature); `dtype` is that of the weights.

    `weight_NV` is a new tensor, or memory of the caller's `buffer`.
    """
    kernels = compiled(dtype)
    assert kernels is not None
    num, vocabulary = z_NV.shape
    logprob_N, entropy_N, total_N = (torch.empty(num, dtype=torch.float32) for _ in range(3))
    out = Softmax(
        logprob_N,
        entropy_N,
        total_N,
        (buffer or Buffer()).take(dtype, num, vocabulary) if with_weights else None,
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


def draw(z_RV: Tensor, temperature: float, uniform_R: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """One token a row from softmax(z / temperature) by inverting its cumulative sum at a uniform (float64), and its
    log-prob. `dtype` selects the build of the kernels; all builds give the same."""
    kernels = compiled(dtype)
    assert kernels is not None
    assert z_RV.is_contiguous()
    token_R, logprob_R = (torch.empty(len(z_RV), dtype=dtype) for dtype in (torch.long, torch.float32))
    kernels.head_draw(
        _pointer(z_RV),
        *(ctypes.c_int64(n) for n in z_RV.shape),
        ctypes.c_float(1.0 / temperature),
        *(_pointer(t) for t in (uniform_R, token_R, logprob_R)),
    )
    return token_R, logprob_R


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
