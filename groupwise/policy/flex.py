"""Attention of packed groups on a GPU: one FlexAttention for all of them.

Prompts are read where they lie, and blocks of keys that no token of a block may see are skipped.

Shapes: H query heads, K key/value heads, P packed tokens, D head width.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from groupwise.policy.attention import AttentionLayer


class FlexAttention:
    """The attention mask of one pack in FlexAttention's form."""

    def __init__(self, segments: Tensor, position_ids_P: Tensor) -> None:
        """`segments` as in `attention.Segments`; a token of no segment sees itself alone."""
        number = len(position_ids_P)
        own = torch.arange(number)
        context = torch.zeros(2, number, dtype=torch.long)
        for first, count, context_first, context_count in segments.tolist():
            segment = slice(first, first + count)
            own[segment] = first
            context[0, segment], context[1, segment] = context_first, context_first + context_count
        device = position_ids_P.device
        self._position_P = position_ids_P
        self._own_P, (self._context_P, self._context_end_P) = own.to(device), context.to(device)
        self._masks: dict[int | None, Any] = {}

    def attend(self, layer: AttentionLayer, q_HPD: Tensor, k_KPD: Tensor, v_KPD: Tensor) -> Tensor | None:
        """Attention output HPD; None where FlexAttention does not compute it: on a CPU it has no gradient."""
        needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (q_HPD, k_KPD, v_KPD))
        if layer.sinks_H is not None or (needs_grad and not q_HPD.is_cuda):
            return None
        if not _runs(len(q_HPD), len(k_KPD), q_HPD.shape[-1], q_HPD.dtype, q_HPD.device):
            return None
        cap = None if layer.softcap is None else _capped(layer.softcap)
        return _flex_attention(q_HPD.is_cuda)(
            q_HPD[None],
            k_KPD[None],
            v_KPD[None],
            score_mod=cap,
            block_mask=self._mask(layer.window),
            scale=layer.scaling,
            enable_gqa=len(q_HPD) != len(k_KPD),
        )[0]

    def _mask(self, window: int | None) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        if window not in self._masks:
            number = len(self._own_P)
            device = self._own_P.device
            self._masks[window] = create_block_mask(self._sees(window), None, None, number, number, device=str(device))
        return self._masks[window]

    def _sees(self, window: int | None) -> Callable[..., Tensor]:
        own_P, context_P, context_end_P, position_P = (
            self._own_P, self._context_P, self._context_end_P, self._position_P,
        )  # fmt: skip

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            of_own = (key >= own_P[query]) & (key <= query)
            of_context = (key >= context_P[query]) & (key < context_end_P[query])
            seen: Tensor = of_own | of_context
            if window is not None:
                seen = seen & (position_P[query] - position_P[key] < window)
            return seen

        return sees


def _capped(cap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return torch.tanh(score / cap) * cap

    return capped


@functools.cache
def _runs(heads: int, kv_heads: int, width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether FlexAttention works here, forward and backward; warns once where it does not."""
    if device.type != "cuda":
        return True
    try:
        with torch.enable_grad():
            parts = [torch.randn(1, n, 128, width, dtype=dtype, device=device) for n in (heads, kv_heads, kv_heads)]
            q, k, v = (part.requires_grad_() for part in parts)
            _flex_attention(True)(q, k, v, enable_gqa=heads != kv_heads).sum().backward()
    except Exception as error:  # a missing compiler, a card or a shape that it has no kernel for
        reason = str(error).strip().split("\n")[0]
        warnings.warn(f"Attention runs without FlexAttention ({reason}); long prompts are slower.", stacklevel=2)
        return False
    return True


@functools.cache
def _flex_attention(is_compiled: bool) -> Callable[..., Tensor]:
    """Compiled, it is one kernel; as it is, it writes every score out: for tests on a CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if is_compiled else flex_attention  # type: ignore[return-value]
