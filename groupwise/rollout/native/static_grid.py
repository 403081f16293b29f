"""Decoding over static buffers: one token's whole step is recorded once and replayed.

Rows sit in a grid of *cells*: one cell holds up to S completions of one prompt and one copy of the prompt's keys and
values. Everything a step reads and writes stands in tensors that never move: last tokens, lengths, uniforms, keys and
values, which rows still grow. A row's own keys fill its cache from the front, so a row that stays costs nothing when
others leave; rows that go to other buffers are copied by index.

Shapes: C cells, S slots a cell, R = C * S rows, K key/value heads, Q query heads a key head, H = K * Q, L prompt
capacity, T own capacity, D head width, B tokens between two reads of the host, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from groupwise.kernels.gpu_ops import (
    ScoreRule,
    StaticCaches,
    attend_static,
    has_triton,
    merged_heads,
    rotate_and_store,
)
from groupwise.policy.attention import AttentionLayer
from groupwise.policy.backend import matmul_float32
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.gpu_layer import StepAttention, StepQKV
from groupwise.rollout.native.kv_cache import PrefillPlan, PromptCache
from groupwise.rollout.native.recorder import Recorder, Work
from groupwise.rollout.sampler import invert_cdf
from groupwise.rollout.sequences import SequenceState
from groupwise.types import Sampling

BLOCK = 8
"""Tokens that every row samples between two reads of the host."""
AHEAD = 2
"""Blocks under way at most: the device draws one while the host reads the one before."""
LEAST_ROWS, LEAST_PROMPT, LEAST_OWN, FIRST_OWN = 8, 64, 32, 128
_STOPS = 64
"""End tokens that there is room for."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sizes that one set of buffers has, all powers of two; one recording is made for each."""

    rows: int
    slots: int
    prompt: int
    """Tokens of a prompt that there is room for."""
    own: int
    """Tokens of a completion that there is room for."""
    is_greedy: bool


def is_drawn_in_step(sampling: Sampling) -> bool:
    """Whether the recorded step draws tokens like this: from the whole distribution, whatever stood before.

    A kept set has any number of tokens, and a repetition penalty reads the text: both are drawn by single operations.
    """
    return not sampling.is_filtered and sampling.repetition_penalty == 1.0 and len(sampling.stop_ids) <= _STOPS


@torch.inference_mode()
def sample_cache(fused: FusedModel) -> PromptCache | None:
    """Keys and values of a short prompt; None where layers differ in them, which one set of buffers cannot hold."""
    plan, ids_T = PrefillPlan([4]), torch.arange(4, device=fused.device)
    fused.hidden(ids_T, ids_T, plan)
    (cache,) = plan.caches()
    kinds = {(t.shape, t.dtype) for side in zip(*cache.layers, strict=True) for t in side[1:]}
    first = {(t.shape, t.dtype) for t in cache.layers[0]}
    return cache if kinds <= first else None


@dataclass(frozen=True, slots=True)
class Block:
    """Tokens of every row that are being drawn."""

    count: int
    _seen_2BR: Tensor
    _done: torch.cuda.Event | None

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and their log-probs, each [count, R]; waits until they are drawn."""
        if self._done is not None:
            self._done.synchronize()
        report = self._seen_2BR.numpy()[:, : self.count].copy()
        return report[0], report[1].view(np.float32)


class StaticGrid(StepAttention):
    """The buffers of one bucket, and the step over them."""

    def __init__(self, fused: FusedModel, bucket: Bucket, like: PromptCache) -> None:
        self.fused, self.bucket = fused, bucket
        self.num_cells = bucket.rows // bucket.slots
        self.device = fused.device
        k, v = like.layers[0]
        self.heads = k.shape[0]
        num_layers, cells = len(like.layers), self.num_cells
        grid = (num_layers, cells, self.heads)
        self.prompt_k, self.prompt_v = (x.new_zeros(*grid, bucket.prompt, x.shape[-1]) for x in (k, v))
        """[layers, C, K, L, D]"""
        self.own_k, self.own_v = (x.new_zeros(*grid, bucket.slots, bucket.own, x.shape[-1]) for x in (k, v))
        """[layers, C, K, S, T, D]"""
        rows = bucket.rows
        self.prompt_length_C = self._numbers(cells).fill_(1)  # an empty cell attends to something, too
        self.token_R, self.length_R, self.limit_R = (self._numbers(rows) for _ in range(3))
        """Last token; own tokens whose keys are cached, one fewer than were drawn; most tokens to draw."""
        self.is_growing_R = torch.zeros(rows, dtype=torch.bool, device=self.device)
        self.uniform_RT = torch.zeros(rows, bucket.own, dtype=torch.float64, device=self.device)
        self.stop_E = self._numbers(_STOPS)
        self.temperature_1 = torch.ones(1, device=self.device)
        self.place_1 = self._numbers(1)
        """Place in the report of the next token."""
        self.report_2BR = torch.zeros(2, BLOCK, rows, dtype=torch.int32, device=self.device)
        """Tokens, and the bits of their float32 log-probs, which the host reads."""
        self.seen_A2BR = torch.zeros(AHEAD, 2, BLOCK, rows, dtype=torch.int32, pin_memory=self.device.type == "cuda")
        """Its copies on the host, one for each block under way."""
        self._first_KR = self._first_places()
        self._place_n = self._first_KR.flatten()
        """Places of this step's keys and values in the flattened caches of a layer."""
        self._masks: dict[int | None, Tensor] = {}
        self._has_kernels = has_triton(self.device)
        self._replay: Work | None = None

    def _numbers(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.long, device=self.device)

    def _first_places(self) -> Tensor:
        """First place of a row's own keys of a head in the flattened caches of a layer."""
        cells, slots = self.num_cells, self.bucket.slots
        first_CKS = torch.arange(cells * self.heads * slots, device=self.device).view(cells, self.heads, slots)
        return first_CKS.transpose(0, 1).reshape(self.heads, -1) * self.bucket.own

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every buffer by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor) and name[0] != "_"}

    def set_sampling(self, sampling: Sampling) -> None:
        self.temperature_1.fill_(sampling.temperature or 1.0)
        stops = [*sampling.stop_ids, *[-1] * (_STOPS - len(sampling.stop_ids))]
        self.stop_E.copy_(torch.tensor(stops))

    def set_prompts(self, prompts: dict[int, PromptCache]) -> None:
        """Put these prompts into the cells of those numbers."""
        for cell, prompt in prompts.items():
            k, v = prompt.stacked
            self.prompt_k[:, cell, :, : prompt.length] = k
            self.prompt_v[:, cell, :, : prompt.length] = v
        if prompts:
            lengths = torch.tensor([p.length for p in prompts.values()]).to(self.device)
            self.prompt_length_C[torch.tensor(list(prompts)).to(self.device)] = lengths

    def set_rows(self, rows: list[SequenceState | None]) -> None:
        """Set every row to the state of its completion."""
        number = range(len(rows))
        growing = [row is not None and not row.is_finished for row in rows]
        drawn = [len(row.token_ids) if row is not None else 1 for row in rows]
        self.is_growing_R.copy_(torch.tensor(growing))
        self.token_R.copy_(torch.tensor([row.token_ids[-1] if row is not None else 0 for row in rows]))
        self.length_R.copy_(torch.tensor([drawn[r] - 1 if growing[r] else 0 for r in number]))
        self.limit_R.copy_(torch.tensor([row.request.limit if row is not None else 0 for row in rows]))
        uniform_RT = np.zeros(self.uniform_RT.shape)
        for r in number:
            if (row := rows[r]) is not None and not self.bucket.is_greedy:
                known = row.uniforms[: self.bucket.own]
                uniform_RT[r, : len(known)] = known
        self.uniform_RT.copy_(torch.from_numpy(uniform_RT))

    def take_rows(self, old: StaticGrid, pairs: list[tuple[int, int]]) -> None:
        """Copy own keys and values: row `new` goes on from row `old` for every (new, old)."""
        if old is self:
            pairs = [(new, row) for new, row in pairs if new != row]
        if not pairs:
            return
        new_n, old_n = (torch.tensor(side).to(self.device) for side in zip(*pairs, strict=True))
        width = min(self.bucket.own, old.bucket.own)
        for mine, theirs in ((self.own_k, old.own_k), (self.own_v, old.own_v)):
            rows = theirs[:, old_n // old.bucket.slots, :, old_n % old.bucket.slots, :width]  # a copy: both may be one
            mine[:, new_n // self.bucket.slots, :, new_n % self.bucket.slots, :width] = rows

    def launch(self, count: int, number: int, recorder: Recorder) -> Block:
        """Start drawing `count` tokens of every row, behind what was started before; nothing is waited for.

        At most `AHEAD` blocks are under way; `number` counts them.
        """
        if self._replay is None:
            self._replay = self._recorded(recorder)
        self.place_1.zero_()
        for _ in range(count):
            self._replay()
        seen_2BR = self.seen_A2BR[number % AHEAD].copy_(self.report_2BR, non_blocking=True)
        done = None
        if self.device.type == "cuda":
            done = torch.cuda.Event()
            done.record()
        return Block(count, seen_2BR, done)

    def forget_recording(self) -> None:
        """Call when a weight has another place in memory."""
        self._replay = None

    def _recorded(self, recorder: Recorder) -> Work:
        """The step in the form that is replayed. While it is recorded, no row grows."""
        growing_R = self.is_growing_R.clone()
        self.is_growing_R.zero_()
        self.place_1.zero_()
        play = recorder.record(self._step)
        self.is_growing_R.copy_(growing_R)
        return play

    def _step(self) -> None:
        """One token of every row: all of it, for nothing here waits for the host."""
        self._place_n = (self._first_KR + self.length_R.clamp(max=self.bucket.own - 1)).flatten()
        hidden_RD = self.fused.hidden(self.token_R, self._positions_CS().flatten(), self)
        token_R, logprob_R = self._draw(self.fused.head.logits(hidden_RD))
        self.report_2BR[0].index_copy_(0, self.place_1, token_R.int()[None])
        self.report_2BR[1].index_copy_(0, self.place_1, logprob_R.float().view(torch.int32)[None])
        self.place_1.add_(1).remainder_(BLOCK)
        self.token_R.copy_(torch.where(self.is_growing_R, token_R, self.token_R))
        self.length_R.add_(self.is_growing_R)
        has_ended_R = (token_R[:, None] == self.stop_E).any(1) | (self.length_R + 1 >= self.limit_R)
        self.is_growing_R.logical_and_(~has_ended_R)
        self._masks, self._place_n = {}, self._first_KR.flatten()  # what the step made may not outlive it

    def _draw(self, logits_RV: Tensor) -> tuple[Tensor, Tensor]:
        if self.bucket.is_greedy:
            token_R = logits_RV.argmax(-1)
            return token_R, logits_RV.gather(1, token_R[:, None])[:, 0] - logits_RV.logsumexp(-1)
        place_R = (self.length_R + 1).clamp(max=self.bucket.own - 1)
        uniform_R = self.uniform_RT.gather(1, place_R[:, None])[:, 0]
        return invert_cdf(logits_RV.div_(self.temperature_1), uniform_R)

    def _positions_CS(self) -> Tensor:
        """Position in its sequence of the token that each row is given."""
        return self.prompt_length_C[:, None] + self.length_R.view(self.num_cells, -1)

    def attend_step(self, step: StepQKV, columns: int) -> Tensor:
        if not self._has_kernels:
            q, k, v = step.written_out()
            return merged_heads(self.attend(step.layer, q, k, v), q.dtype, columns)
        caches = self._caches(step.layer)
        q_RHD = rotate_and_store(step.qkv_RO, step.norms, step.cos_RD, step.sin_RD, caches, step.heads)
        return attend_static(q_RHD, caches, _rule_of(step.layer), columns)

    def _caches(self, layer: AttentionLayer) -> StaticCaches:
        n = layer.index
        return StaticCaches(
            self.prompt_k[n], self.prompt_v[n], self.own_k[n], self.own_v[n], self.prompt_length_C, self.length_R
        )

    def attend(self, layer: AttentionLayer, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> Tensor:
        """Attention of the rows' new tokens (T = R here) to their prompts and to their own earlier tokens."""
        self._write(self.own_k[layer.index], k_KTD)
        self._write(self.own_v[layer.index], v_KTD)
        if not self._has_kernels:
            return self._attention_written_out(layer, q_HTD)
        q_RHD = q_HTD.transpose(0, 1).contiguous()
        out_RI = attend_static(q_RHD, self._caches(layer), _rule_of(layer), q_RHD[0].numel())
        return out_RI.view(q_RHD.shape).transpose(0, 1)

    def _attention_written_out(self, layer: AttentionLayer, q_HTD: Tensor) -> Tensor:
        cells, heads, slots, width = self.num_cells, self.heads, self.bucket.slots, q_HTD.shape[-1]
        q = q_HTD.view(heads, -1, cells, slots, width).permute(2, 0, 3, 1, 4).reshape(cells * heads, -1, width)
        queries = q.shape[1] // slots
        grid = (cells, heads, slots, queries, -1)
        own_k, own_v = self.own_k[layer.index].flatten(0, 2), self.own_v[layer.index].flatten(0, 2)
        prompt_k, prompt_v = self.prompt_k[layer.index].flatten(0, 1), self.prompt_v[layer.index].flatten(0, 1)
        to_prompt = matmul_float32(q, prompt_k.transpose(1, 2)).view(grid)
        to_own = matmul_float32(q.view(-1, queries, width), own_k.transpose(1, 2)).view(grid)
        p = self._softmax(layer, torch.cat([to_prompt, to_own], dim=-1)).to(own_v.dtype)
        p_prompt, p_own = p.split([self.bucket.prompt, self.bucket.own], dim=-1)
        out = matmul_float32(p_prompt.flatten(2, 3).flatten(0, 1), prompt_v).view(grid)
        out = out + matmul_float32(p_own.flatten(0, 2), own_v).view(grid)
        return out.permute(1, 3, 0, 2, 4).reshape(q_HTD.shape[0], self.bucket.rows, -1).to(q_HTD.dtype)

    def _write(self, cache: Tensor, new_KTD: Tensor) -> None:
        """Put each row's new key or value behind its own ones."""
        width = new_KTD.shape[-1]
        cache.view(-1, width).index_copy_(0, self._place_n, new_KTD.reshape(-1, width))

    def _softmax(self, layer: AttentionLayer, scores: Tensor) -> Tensor:
        """Over prompt and own keys together; `scores` is [C, K, S, Q, L + T], float32, without their scale."""
        mask = self._mask(layer.window)
        if layer.softcap is None:
            scores = torch.add(mask, scores, alpha=layer.scaling)
        else:
            scores = mask + layer.softcap * torch.tanh(scores * (layer.scaling / layer.softcap))
        if layer.sinks_H is None:
            return scores.softmax(-1)
        sinks = layer.sinks_H.float().view(1, self.heads, 1, -1, 1).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]

    def _mask(self, window: int | None) -> Tensor:
        """0 where a row may attend, else -inf, [C, 1, S, 1, L + T]; made once a step for all layers of a kind."""
        if window not in self._masks:
            key_L = torch.arange(self.bucket.prompt, device=self.device)
            place_T = torch.arange(self.bucket.own, device=self.device)
            length_CS1 = self.length_R.view(self.num_cells, -1, 1)
            sees_prompt = (key_L < self.prompt_length_C[:, None, None]).expand(-1, length_CS1.shape[1], -1)
            sees_own = place_T <= length_CS1
            if window is not None:
                sees_prompt = sees_prompt & (key_L > self._positions_CS()[:, :, None] - window)
                sees_own = sees_own & (place_T > length_CS1 - window)
            sees = torch.cat([sees_prompt, sees_own], dim=-1)
            mask = torch.zeros(sees.shape, device=self.device).masked_fill_(~sees, float("-inf"))
            self._masks[window] = mask[:, None, :, None]
        return self._masks[window]


def _rule_of(layer: AttentionLayer) -> ScoreRule:
    return ScoreRule(layer.scaling, layer.window, layer.softcap, layer.sinks_H)
