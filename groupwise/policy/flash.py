"""Attention of packed segments on a GPU: two flash attentions for all of them, one for what they see of others.

A segment attends causally to itself, and some to the whole of a prompt besides. Both parts return the logarithm of
their weights' sum (lse), by which their outputs are mixed. For the gradient each part is given the mixed output and the
mixed lse: its weights are then those of the whole softmax, so the parts' gradients add up.

Shapes: H query heads, K key/value heads, T tokens, N tokens that see a context, M tokens of contexts, D head width.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from groupwise.policy.attention import AttentionLayer
from groupwise.torch_internals import flash_attention, flash_attention_backward

_LARGEST_HEAD = 256


class Attended(NamedTuple):
    """What a flash attention computed."""

    output_THD: Tensor
    lse_HT: Tensor
    state: Sequence[Tensor]
    """What its gradient wants besides."""


@dataclass(frozen=True)
class KeyRuns:
    """Consecutive runs of queries, and the runs of keys that each attends to."""

    first_q: Tensor
    """int32: first query of each run, and the number of all queries."""
    first_k: Tensor
    longest_q: int
    longest_k: int
    is_causal: bool

    @classmethod
    def of(cls, queries: Sequence[int], keys: Sequence[int], device: torch.device, *, is_causal: bool) -> KeyRuns:
        first_q, first_k = (torch.tensor([0, *counts]).cumsum(0).to(device, torch.int32) for counts in (queries, keys))
        return cls(first_q, first_k, max(queries), max(keys), is_causal)

    def attend(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, scaling: float) -> Attended:
        if not q_THD.is_cuda:
            return _written_out(self, q_THD, k_TKD, v_TKD, scaling)
        output, lse, *state = flash_attention(
            q_THD, k_TKD, v_TKD, self.first_q, self.first_k, self.longest_q, self.longest_k,
            is_causal=self.is_causal, scale=scaling,
        )  # fmt: skip
        return Attended(output, lse, state[:2])

    def gradients(
        self, dout_THD: Tensor, parts: tuple[Tensor, Tensor, Tensor], whole: Attended, scaling: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k and v. `whole` holds the output and the lse over all keys, those of other parts too."""
        if not dout_THD.is_cuda:
            return _written_out_gradients(self, dout_THD, parts, whole, scaling)
        return flash_attention_backward(
            dout_THD, *parts, whole.output_THD, whole.lse_HT, self.first_q, self.first_k, self.longest_q,
            self.longest_k, whole.state, self.is_causal, scaling,
        )  # fmt: skip


class FlashAttention:
    """How the tokens of one pass attend, in flash attention's form."""

    def __init__(self, segments: Tensor, num_tokens: int, longest: int, device: torch.device) -> None:
        """`segments` and `longest` as in `attention.Segments`; tokens of no segment see one another."""
        self.longest = longest
        rows = segments.tolist()
        self.own = KeyRuns.of(*(_cover(rows, num_tokens),) * 2, device, is_causal=True)
        seeing = [row for row in rows if row[3]]
        self.context: KeyRuns | None = None
        if seeing:
            queries, keys, query_index, key_index = _contexts(seeing)
            self.context = KeyRuns.of(queries, keys, device, is_causal=False)
            self.query_index_N, self.key_index_M = (
                torch.tensor(index, device=device) for index in (query_index, key_index)
            )

    def attend(self, layer: AttentionLayer, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> Tensor | None:
        """Attention output HTD; None where flash attention does not compute it."""
        if not self._can(layer, q_HTD):
            return None
        if q_HTD.is_cuda and not _runs_on(len(q_HTD), len(k_KTD), q_HTD.shape[-1], q_HTD.dtype, q_HTD.device):
            return None
        parts = (x.transpose(0, 1) for x in (q_HTD, k_KTD, v_KTD))
        output_THD: Tensor = _MixedAttention.apply(self, layer.scaling, *parts)  # type: ignore[no-untyped-call]
        return output_THD.transpose(0, 1)

    def _can(self, layer: AttentionLayer, q_HTD: Tensor) -> bool:
        is_cut = layer.window is not None and layer.window < self.longest
        is_plain = layer.softcap is None and layer.sinks_H is None and not is_cut and not q_HTD.is_meta
        return is_plain and q_HTD.dtype in (torch.bfloat16, torch.float16) and q_HTD.shape[-1] <= _LARGEST_HEAD


def _cover(rows: list[list[int]], num_tokens: int) -> list[int]:
    """Lengths of consecutive runs that cover all tokens: the segments, and what lies between and behind them."""
    lengths, at = [], 0
    for first, count, _, _ in sorted(rows):
        lengths += [first - at, count]
        at = first + count
    return [length for length in [*lengths, num_tokens - at] if length]


def _contexts(rows: list[list[int]]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Queries and keys a context, and the tokens that they are; neighbours that see the same one are one run."""
    queries: list[int] = []
    keys: list[int] = []
    query_index: list[int] = []
    key_index: list[int] = []
    last: tuple[int, int] | None = None
    for first, count, context, length in rows:
        query_index += range(first, first + count)
        if last == (context, length):
            queries[-1] += count
            continue
        last = (context, length)
        queries.append(count)
        keys.append(length)
        key_index += range(context, context + length)
    return queries, keys, query_index, key_index


class _MixedAttention(torch.autograd.Function):
    """See the module docstring."""

    @staticmethod
    def forward(ctx: Any, plan: FlashAttention, scaling: float, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        own = plan.own.attend(q, k, v, scaling)
        output, lse = own.output_THD, own.lse_HT
        state = [*own.state]
        if plan.context is not None:
            rows, keys = plan.query_index_N, plan.key_index_M
            seen = plan.context.attend(q[rows], k[keys], v[keys], scaling)
            output, lse = _mixed(own, seen, rows)
            state += seen.state
        ctx.plan, ctx.scaling = plan, scaling
        ctx.save_for_backward(q, k, v, output, lse, *state)
        return output

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, output, lse, *state = ctx.saved_tensors
        plan: FlashAttention = ctx.plan
        half = len(state) // (1 if plan.context is None else 2)
        dout = dout.contiguous()
        dq, dk, dv = plan.own.gradients(dout, (q, k, v), Attended(output, lse, state[:half]), ctx.scaling)
        if plan.context is not None:
            rows, keys = plan.query_index_N, plan.key_index_M
            whole = Attended(output[rows], lse[:, rows].contiguous(), state[half:])
            more = plan.context.gradients(dout[rows], (q[rows], k[keys], v[keys]), whole, ctx.scaling)
            for gradient, index, other in zip((dq, dk, dv), (rows, keys, keys), more, strict=True):
                gradient[index] += other  # no index occurs twice
        return None, None, dq, dk, dv


def _mixed(own: Attended, seen: Attended, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Output and lse of all tokens, those of `rows` over both parts."""
    own_lse = own.lse_HT[:, rows]
    whole_lse = torch.logaddexp(own_lse, seen.lse_HT)
    shares = ((lse - whole_lse).exp().t()[..., None] for lse in (own_lse, seen.lse_HT))
    first, second = (
        part.float() * share for part, share in zip((own.output_THD[rows], seen.output_THD), shares, strict=True)
    )
    output = own.output_THD.index_copy(0, rows, (first + second).to(own.output_THD.dtype))
    return output, own.lse_HT.index_copy(1, rows, whole_lse)


def _blocks(runs: KeyRuns) -> list[tuple[slice, slice, Tensor]]:
    """Queries, keys and mask of every run."""
    first_q, first_k = runs.first_q.tolist(), runs.first_k.tolist()
    found = []
    for run in range(len(first_q) - 1):
        queries, keys = slice(*first_q[run : run + 2]), slice(*first_k[run : run + 2])
        mask = torch.ones(queries.stop - queries.start, keys.stop - keys.start, dtype=torch.bool)
        found.append((queries, keys, mask.tril() if runs.is_causal else mask))
    return found


def _scores(q: Tensor, k: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """float32 [H, T, S]."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = torch.einsum("thd,shd->hts", q.float(), k.float()) * scaling
    return scores.masked_fill(~mask.to(q.device), float("-inf"))


def _written_out(runs: KeyRuns, q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Attended:
    """What flash attention computes, run by run in torch: for tests on a CPU."""
    output, lse = torch.empty_like(q), q.new_empty(q.shape[1], len(q), dtype=torch.float32)
    for queries, keys, mask in _blocks(runs):
        scores = _scores(q[queries], k[keys], mask, scaling)
        lse[:, queries] = scores.logsumexp(-1)
        values = v[keys].repeat_interleave(q.shape[1] // k.shape[1], dim=1).float()
        output[queries] = torch.einsum("hts,shd->thd", scores.softmax(-1), values).to(q.dtype)
    return Attended(output, lse, (lse.new_zeros(0), lse.new_zeros(0)))


def _written_out_gradients(
    runs: KeyRuns, dout: Tensor, parts: tuple[Tensor, Tensor, Tensor], whole: Attended, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = parts
    repeats = q.shape[1] // k.shape[1]
    dq, dk, dv = (torch.zeros(x.shape, dtype=torch.float32) for x in parts)
    delta_HT = (dout.float() * whole.output_THD.float()).sum(-1).t()
    for queries, keys, mask in _blocks(runs):
        weights = (_scores(q[queries], k[keys], mask, scaling) - whole.lse_HT[:, queries, None]).exp()
        do, values = dout[queries].float(), v[keys].repeat_interleave(repeats, dim=1).float()
        dweights = torch.einsum("thd,shd->hts", do, values)
        dscores = weights * (dweights - delta_HT[:, queries, None]) * scaling
        expanded = k[keys].repeat_interleave(repeats, dim=1).float()
        dq[queries] = torch.einsum("hts,shd->thd", dscores, expanded)
        dk[keys] += torch.einsum("hts,thd->shd", dscores, q[queries].float()).unflatten(1, (-1, repeats)).sum(2)
        dv[keys] += torch.einsum("hts,thd->shd", weights, do).unflatten(1, (-1, repeats)).sum(2)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


@functools.cache
def _runs_on(heads: int, kv_heads: int, width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether flash attention works here, forward and backward; warns once where it does not."""
    try:
        with torch.inference_mode(False), torch.enable_grad():  # the first caller may be a rollout
            plan = FlashAttention(torch.tensor([[0, 40, 0, 0], [40, 24, 0, 40]]), 64, 64, device)
            parts = [torch.randn(64, n, width, dtype=dtype, device=device) for n in (heads, kv_heads, kv_heads)]
            output = _MixedAttention.apply(plan, 1.0, *(p.requires_grad_() for p in parts))  # type: ignore[no-untyped-call]
            output.sum().backward()
        return all(bool(p.grad.isfinite().all()) for p in parts if p.grad is not None)
    except Exception as error:  # a card or a shape that it has no kernel for
        reason = str(error).strip().split("\n")[0]
        warnings.warn(f"Attention runs without flash attention ({reason}); long packs are slower.", stacklevel=2)
        return False
