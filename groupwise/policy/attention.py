"""Our attention, registered with transformers: one function for the learner's packed groups and for the engine.

A model whose config names `groupwise` calls `attend` in every layer. An *attention plan*, set for one pass by
`AttentionContext.use`, decides which tokens attend to which.

Shapes: H query heads, K key/value heads, T tokens of the pass, S keys, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from groupwise.policy.backend import backend_of
from groupwise.transformers_internals import layer_index, set_attention

NAME = "groupwise"
_CONTEXT_ATTRIBUTE = "_groupwise_plan"
_HARMLESS = {"position_ids", "use_cache", "output_attentions", "cache_position", "is_causal", "output_hidden_states"}


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """Settings of one attention layer."""

    index: int
    scaling: float
    window: int | None
    softcap: float | None
    sinks_H: Tensor | None


class AttentionPlan(Protocol):
    """How the tokens of one pass attend."""

    def attend(self, layer: AttentionLayer, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> Tensor:
        """Attention output HTD for the packed tokens of the pass."""


class Segments:
    """A plan over segments: each attends to all of a context and, causally, to itself. Other tokens are padding."""

    segments: Tensor
    """Rows of (first token, number of tokens, first token of the context, number of its tokens)."""
    longest: int
    """Tokens of the longest context and segment together."""

    def store_kv(self, k_KTD: Tensor, v_KTD: Tensor) -> None:
        """Store the keys and values of a layer; called once for every layer, in order."""


def segment_table(segments: Sequence[tuple[int, int, int, int]]) -> tuple[Tensor, int]:
    """`segments` and `longest` of a plan; empty segments are left out."""
    return torch.tensor([p for p in segments if p[1]]).view(-1, 4), max(p[1] + p[3] for p in segments)


class AttentionContext:
    """Holds the attention plan of the running pass for all layers of one model."""

    def __init__(self) -> None:
        self.plan: AttentionPlan | None = None

    @contextmanager
    def use(self, plan: AttentionPlan) -> Iterator[None]:
        """Attend by `plan`. Keep it open through the backward pass: checkpointed layers run again there."""
        previous, self.plan = self.plan, plan
        try:
            yield
        finally:
            self.plan = previous


def install(model: nn.Module) -> AttentionContext:
    """Let every attention layer of `model`, a copy that we own, attend by the context's plan."""
    context = AttentionContext()
    for module in model.modules():
        object.__setattr__(module, _CONTEXT_ATTRIBUTE, context)
        set_attention(getattr(module, "config", None), NAME)
    return context


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention function of the transformers interface. Raises on a keyword whose meaning it does not know."""
    unknown = sorted(name for name, value in others.items() if name not in _HARMLESS and value is not None)
    if unknown:
        raise NotImplementedError(f"its attention passes {', '.join(unknown)}, which packed attention does not know")
    context: AttentionContext = getattr(module, _CONTEXT_ATTRIBUTE)
    assert context.plan is not None, "a pass of the fused model needs a plan"
    layer = AttentionLayer(
        index=layer_index(module),
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
        sinks_H=s_aux,
    )
    dtype = torch.float32 if backend_of(query.device).is_attention_float32 else value.dtype
    out_HTD = context.plan.attend(layer, query[0].to(dtype), key[0].to(dtype), value[0].to(dtype))
    return out_HTD.transpose(0, 1).unsqueeze(0), None


def no_mask(*_: Any, **__: Any) -> None:
    """No mask: the attention plan decides which tokens attend to which."""


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, no_mask)


def causal_mask(num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor:
    """Boolean mask [num_queries, num_keys]: the queries are the last tokens of the keys' sequence."""
    query = torch.arange(num_keys - num_queries, num_keys, device=device)[:, None]
    key = torch.arange(num_keys, device=device)[None, :]
    mask = key <= query
    return mask if window is None else mask & (key > query - window)


def dot_product_attention(layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention over [B, H, T, D] queries and [B, K, S, D] keys under a boolean mask [T, S]."""
    if layer.softcap is None and layer.sinks_H is None:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=layer.scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
    repeats = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(repeats, dim=1).transpose(-1, -2) * layer.scaling
    return score_softmax(layer, scores, mask) @ v.repeat_interleave(repeats, dim=1)


def score_softmax(layer: AttentionLayer, scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of [B, H, T, S] scores with the layer's soft cap and attention sinks."""
    if layer.softcap is not None:
        scores = layer.softcap * torch.tanh(scores / layer.softcap)
    scores = scores.masked_fill(~mask, float("-inf"))
    if layer.sinks_H is None:
        return scores.softmax(-1)
    sinks = layer.sinks_H.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]
