"""Differentiable calls of the learner's kernels; see `learner.cpp`.

Every function keeps for its backward pass only what it was given, so activations are few: norm and feed-forward are
computed again instead of being stored. Shapes: T tokens, I hidden width, F feed-forward width, H query heads, K
key/value heads, D head width. "Factors" are numbers in the dtype that products multiply.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from groupwise.kernels.build import compiled

_Int = ctypes.c_int64


def call(dtype: torch.dtype, name: str, *arguments: Tensor | int | float) -> None:
    """Call the kernel of this name, built for factors of this dtype, with contiguous tensors and numbers."""
    kernels = compiled(dtype)
    assert kernels is not None
    getattr(kernels, name)(*map(_argument, arguments))


def _argument(value: Tensor | int | float) -> Any:
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_float(value) if isinstance(value, float) else _Int(value)


class _RMSNorm(torch.autograd.Function):
    """`x w / sqrt(mean(x^2) + eps)`: float32 x [T, I] and frozen w [I] -> factors [T, I]."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_I: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        y_TI = torch.empty_like(x_TI, dtype=dtype)
        inverse_T = x_TI.new_empty(len(x_TI))
        call(dtype, "rms_norm_forward", x_TI, weight_I, *x_TI.shape, eps, y_TI, inverse_T)
        ctx.save_for_backward(x_TI, weight_I, inverse_T)
        return y_TI

    @staticmethod
    def backward(ctx: Any, dy_TI: Tensor) -> tuple[Tensor, None, None, None]:
        x_TI, weight_I, inverse_T = ctx.saved_tensors
        dx_TI = torch.empty_like(x_TI)
        call(dy_TI.dtype, "rms_norm_backward", x_TI, weight_I, inverse_T, dy_TI.contiguous(), *x_TI.shape, dx_TI)
        return dx_TI, None, None, None


class _SiluMul(torch.autograd.Function):
    """`silu(gate) * up`: factors [T, 2 F] -> [T, F]."""

    @staticmethod
    def forward(ctx: Any, y_TG: Tensor) -> Tensor:
        out_TF = y_TG.new_empty(len(y_TG), y_TG.shape[1] // 2)
        call(y_TG.dtype, "silu_mul_forward", y_TG, *out_TF.shape, out_TF)
        ctx.save_for_backward(y_TG)
        return out_TF

    @staticmethod
    def backward(ctx: Any, dout_TF: Tensor) -> Tensor:
        (y_TG,) = ctx.saved_tensors
        dy_TG = torch.empty_like(y_TG)
        call(y_TG.dtype, "silu_mul_backward", y_TG, dout_TF.contiguous(), *dout_TF.shape, dy_TG)
        return dy_TG


class _RotaryHeads(torch.autograd.Function):
    """Factors [T, (H + 2 K) D] -> queries and keys, rotated, and values: float32 [H + 2 K, T, D]."""

    @staticmethod
    def forward(ctx: Any, y_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, heads: int, kv_heads: int) -> Tensor:
        width = y_TO.shape[1] // (heads + 2 * kv_heads)
        out_HTD = torch.empty(heads + 2 * kv_heads, len(y_TO), width, dtype=torch.float32)
        ctx.dtype, ctx.sizes = y_TO.dtype, (len(y_TO), heads, kv_heads, width, cos_TD.shape[1])
        call(y_TO.dtype, "rotary_heads_forward", y_TO, cos_TD, sin_TD, *ctx.sizes, out_HTD)
        ctx.save_for_backward(cos_TD, sin_TD)
        return out_HTD

    @staticmethod
    def backward(ctx: Any, dout_HTD: Tensor) -> tuple[Tensor | None, ...]:
        cos_TD, sin_TD = ctx.saved_tensors
        tokens, heads, kv_heads, width, _ = ctx.sizes
        dy_TO = torch.empty(tokens, (heads + 2 * kv_heads) * width, dtype=ctx.dtype)
        call(ctx.dtype, "rotary_heads_backward", dout_HTD.contiguous(), cos_TD, sin_TD, *ctx.sizes, dy_TO)
        return dy_TO, None, None, None, None


class _MergeHeads(torch.autograd.Function):
    """float32 [H, T, D] -> factors [T, H D]."""

    @staticmethod
    def forward(ctx: Any, x_HTD: Tensor, dtype: torch.dtype) -> Tensor:
        heads, tokens, width = ctx.shape = x_HTD.shape
        y_TI = torch.empty(tokens, heads * width, dtype=dtype)
        call(dtype, "merge_heads", x_HTD.contiguous(), tokens, heads, width, y_TI)
        return y_TI

    @staticmethod
    def backward(ctx: Any, dy_TI: Tensor) -> tuple[Tensor, None]:
        heads, tokens, width = ctx.shape
        dx_HTD = torch.empty(heads, tokens, width, dtype=torch.float32)
        call(dy_TI.dtype, "split_heads", dy_TI.contiguous(), tokens, heads, width, dx_HTD)
        return dx_HTD, None


def rms_norm(x_TI: Tensor, weight_I: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """`x w / sqrt(mean(x^2) + eps)`: float32 x and frozen w -> factors of `dtype`."""
    return _RMSNorm.apply(x_TI, weight_I, eps, dtype)  # type: ignore[no-any-return, no-untyped-call]


def silu_mul(gate_up_TG: Tensor) -> Tensor:
    """`silu(gate) * up`: factors [T, 2 F] -> [T, F]."""
    return _SiluMul.apply(gate_up_TG)  # type: ignore[no-any-return, no-untyped-call]


def rotary_heads(qkv_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, heads: int, kv_heads: int) -> Tensor:
    """Factors [T, (H + 2 K) D] -> queries and keys, rotated, and values: float32 [H + 2 K, T, D]."""
    return _RotaryHeads.apply(qkv_TO, cos_TD, sin_TD, heads, kv_heads)  # type: ignore[no-any-return, no-untyped-call]


def merge_heads(x_HTD: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 [H, T, D] -> factors [T, H D]."""
    return _MergeHeads.apply(x_HTD, dtype)  # type: ignore[no-any-return, no-untyped-call]
