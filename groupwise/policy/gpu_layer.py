"""Decoder layers as a GPU runs them: a few large kernels, in training passes and in recorded decode steps.

A layer is read and rebuilt as for the kernels of a CPU (`decoder_layer.read_layer`); only one that its parts compute
again runs so, every other one runs its own code. Operations are those of `kernels/gpu_ops.py`.

Shapes: T tokens, R rows of a decode step, I hidden width, H query heads, K key/value heads, D head width; J numbers a
row of a product's input, with room for the adapters' own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from groupwise.kernels.gpu_ops import HeadNorms, add_rms_norm, merged_heads, rms_norm, rotated_heads, silu_mul
from groupwise.policy.attention import AttentionContext, AttentionLayer, AttentionPlan
from groupwise.policy.decoder_layer import LayerParts, read_layer, rotary_cos_sin
from groupwise.transformers_internals import is_decoder_layer, rotary_embedding


class StepAttention:
    """A plan whose tokens are one step of rows in static buffers."""

    def attend_step(self, step: StepQKV, columns: int) -> Tensor:
        """Store the step's keys and values; attention of its queries in factors [R, J], J = `columns`."""
        raise NotImplementedError


class StepQKV:
    """Queries, keys and values of a step, side by side, before they are rotated."""

    def __init__(self, parts: LayerParts, qkv_RO: Tensor, cos_RD: Tensor, sin_RD: Tensor) -> None:
        self.layer: AttentionLayer = parts.attention
        self.heads, self.kv_heads = parts.heads, parts.kv_heads
        self.qkv_RO, self.cos_RD, self.sin_RD = qkv_RO, cos_RD, sin_RD
        norm_q, norm_k = (None if norm is None else norm.weight for norm in (parts.norm_q, parts.norm_k))
        self.norms = HeadNorms(norm_q, norm_k, parts.eps)
        self._parts = parts

    def written_out(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [H, R, D], keys and values [K, R, D], rotated, in factors."""
        q, k, v = self._parts.rotated(self.qkv_RO, self.cos_RD, self.sin_RD)
        return q.to(self.qkv_RO.dtype), k.to(self.qkv_RO.dtype), v.to(self.qkv_RO.dtype)


class ResidualStream:
    """What the layer before leaves to be added to the residual stream of a decode step: a norm adds it on its way."""

    def __init__(self) -> None:
        self.delta_RI: Tensor | None = None

    def take(self) -> Tensor | None:
        delta_RI, self.delta_RI = self.delta_RI, None
        return delta_RI


class GPULayer:
    """Replaces the `forward` of a decoder layer."""

    def __init__(
        self, parts: LayerParts, context: AttentionContext, stream: ResidualStream, *, is_followed: bool
    ) -> None:
        """`is_followed`: the next layer of the model is one of these, too, and shares the `stream`."""
        self._parts = parts
        self._context = context
        self._stream, self._is_followed = stream, is_followed

    def __call__(self, hidden_states: Tensor, *_: Any, **keywords: Any) -> Tensor:
        plan: Any = self._context.plan
        x_TI = hidden_states[0].float()
        cos_TD, sin_TD = rotary_cos_sin(keywords)
        if isinstance(plan, StepAttention):
            return self._step(x_TI, cos_TD, sin_TD, plan)[None]
        return self._pass(x_TI, cos_TD, sin_TD, plan)[None]

    def _step(self, x_RI: Tensor, cos_RD: Tensor, sin_RD: Tensor, plan: StepAttention) -> Tensor:
        """One token of every row."""
        p, delta_RI = self._parts, self._stream.take()
        norm = (p.norm_in.weight, p.eps, p.dtype, p.qkv.columns)
        if delta_RI is None:
            normed_RJ = rms_norm(x_RI, *norm)
        else:
            x_RI, normed_RJ = add_rms_norm(x_RI, delta_RI, *norm)
        attended_RJ = plan.attend_step(StepQKV(p, p.qkv.output_of(normed_RJ), cos_RD, sin_RD), p.o.columns)
        x_RI, delta_RI = self._after_attention(x_RI, attended_RJ)
        if not self._is_followed:
            return x_RI + delta_RI
        self._stream.delta_RI = delta_RI
        return x_RI

    def _pass(self, x_TI: Tensor, cos_TD: Tensor, sin_TD: Tensor, plan: AttentionPlan) -> Tensor:
        """The packed tokens of a pass, differentiable."""
        p = self._parts
        qkv_TO = p.qkv.output_of(rms_norm(x_TI, p.norm_in.weight, p.eps, p.dtype, p.qkv.columns))
        if p.norm_q is not None:
            qkv_TO = _with_normed_heads(qkv_TO, p)
        q_HTD, k_KTD, v_KTD = rotated_heads(qkv_TO, cos_TD, sin_TD, p.heads, p.kv_heads)
        attended_HTD = plan.attend(p.attention, q_HTD, k_KTD, v_KTD)
        x_TI, delta_TI = self._after_attention(x_TI, merged_heads(attended_HTD, p.dtype, p.o.columns))
        return x_TI + delta_TI

    def _after_attention(self, x_TI: Tensor, attended_TJ: Tensor) -> tuple[Tensor, Tensor]:
        """The residual stream after attention, and what the feed-forward part adds to it."""
        p = self._parts
        delta_TI = p.o.output_of(attended_TJ)
        x_TI, normed_TJ = add_rms_norm(x_TI, delta_TI, p.norm_post.weight, p.eps, p.dtype, p.gate_up.columns)
        gate_up_TG = p.gate_up.output_of(normed_TJ)
        return x_TI, p.down.output_of(silu_mul(gate_up_TG, p.down.columns))


def _with_normed_heads(qkv_TO: Tensor, parts: LayerParts) -> Tensor:
    """Queries and keys after the norms of single heads, values as they are."""
    sizes = [parts.heads * parts.width, parts.kv_heads * parts.width, parts.kv_heads * parts.width]
    *queries_and_keys, v_TO = qkv_TO.split(sizes, dim=-1)
    normed = []
    for x_TO, norm in zip(queries_and_keys, (parts.norm_q, parts.norm_k), strict=True):
        assert norm is not None
        heads = x_TO.reshape(-1, parts.width)
        normed.append(rms_norm(heads, norm.weight, parts.eps, qkv_TO.dtype, parts.width).view(x_TO.shape))
    return torch.cat([*normed, v_TO], dim=-1)


@torch.no_grad()
def install_gpu_layers(model: nn.Module, context: AttentionContext) -> list[GPULayer]:
    """Replace the `forward` of every decoder layer that can be rebuilt from its parts."""
    rotary, stream = rotary_embedding(model), ResidualStream()
    if rotary is None:
        return []
    layers = [layer for layer in model.modules() if is_decoder_layer(layer)]
    parts_of = [read_layer(layer, rotary, context) for layer in layers]
    installed = []
    for layer, parts, following in zip(layers, parts_of, [*parts_of, None][1:], strict=True):
        if parts is not None:
            is_followed = following is not None and following.attention.index == parts.attention.index + 1
            installed.append(GPULayer(parts, context, stream, is_followed=is_followed))
            layer.forward = installed[-1]
    return installed
