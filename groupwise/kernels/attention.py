"""Differentiable attention of packed groups; see `attention.cpp`.

Shapes: H query heads, K key/value heads, T tokens of the pass, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from groupwise.kernels.learner import call


def packed_attention(
    qkv_HTD: Tensor, segments_P4: Tensor, heads: int, kv_heads: int, scaling: float, dtype: torch.dtype
) -> Tensor:
    """Queries, keys and values [H + 2 K, T, D] in float32 -> [H, T, D].

    A row of `segments_P4` is (first token, number of tokens, first token of the context, number of its tokens): the
    tokens attend to all of their context and, causally, to themselves. A token of no segment gets 0. `dtype` selects
    the build of the kernels; all builds give the same.
    """
    return _PackedAttention.apply(qkv_HTD, segments_P4, heads, kv_heads, scaling, dtype)  # type: ignore[no-any-return, no-untyped-call]


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv_HTD: Tensor, segments_P4: Tensor, heads: int, kv_heads: int, scaling: float, dtype: torch.dtype
    ) -> Tensor:
        tokens, width = qkv_HTD.shape[1:]
        out_HTD, lse_HT = qkv_HTD.new_zeros(heads, tokens, width), qkv_HTD.new_empty(heads, tokens)
        ctx.dtype, ctx.sizes = dtype, (len(segments_P4), tokens, heads, kv_heads, width, scaling)
        call(dtype, "attention_forward", qkv_HTD, segments_P4, *ctx.sizes, out_HTD, lse_HT)
        ctx.save_for_backward(qkv_HTD, segments_P4, out_HTD, lse_HT)
        return out_HTD

    @staticmethod
    def backward(ctx: Any, dout_HTD: Tensor) -> tuple[Tensor | None, ...]:
        qkv_HTD, segments_P4, out_HTD, lse_HT = ctx.saved_tensors
        dqkv_HTD = torch.zeros_like(qkv_HTD)
        arguments = (qkv_HTD, segments_P4, *ctx.sizes, out_HTD, lse_HT, dout_HTD.contiguous(), dqkv_HTD)
        call(ctx.dtype, "attention_backward", *arguments)
        return dqkv_HTD, None, None, None, None, None
