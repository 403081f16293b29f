"""KV cache of decoding: a prompt's keys and values once for its group, a completion's own beside them.

Rows sit in a grid of *cells*: one cell holds up to S completions of one prompt and one copy of the prompt's keys and
values, so attention to prompts is one batched product for all cells. Empty slots fused and are ignored.

Shapes: C cells, S slots a cell, R = C * S rows, K key/value heads, Q query heads a key head, L longest prompt,
T own capacity, D head width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from groupwise.kernels.decode import PROMPT_STEP, KVCaches
from groupwise.policy.attention import AttentionLayer, Segments, causal_mask, dot_product_attention, segment_table
from groupwise.policy.backend import backend_of, matmul_float32
from groupwise.policy.decoder_layer import DecodeAttention
from groupwise.policy.flash import FlashAttention

FIRST_CAPACITY = 128
"""Own tokens that there is room for at first, at most."""
_CAPACITY_STEP = 32
_KEYS_WORTH_A_ROW = 512
"""How many more prompt keys to read cost about as much as one more row to fused."""


@dataclass(frozen=True)
class PromptCache:
    """Keys and values of one prompt, a [K, L, D] pair a layer."""

    length: int
    layers: list[tuple[Tensor, Tensor]]

    @functools.cached_property
    def stacked(self) -> tuple[Tensor, Tensor]:
        """Keys and values of all layers, [layers, K, L, D], where they are alike."""
        k, v = (torch.stack(list(parts)) for parts in zip(*self.layers, strict=True))
        return k, v


class PrefillPlan(Segments):
    """Causal attention inside each of several packed prompts, keeping their keys and values; the rest is padding."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        first = [sum(self.lengths[:number]) for number in range(len(self.lengths))]
        self.segments, self.longest = segment_table([(f, n, 0, 0) for f, n in zip(first, self.lengths, strict=True)])
        self._kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in lengths]
        self._flash: FlashAttention | None = None

    def store_kv(self, k_KTD: Tensor, v_KTD: Tensor) -> None:
        padding = k_KTD.shape[1] - sum(self.lengths)
        parts = zip(*(x.split([*self.lengths, padding], dim=1) for x in (k_KTD, v_KTD)), strict=True)
        for kept, pair in zip(self._kept, parts, strict=False):
            kept.append(pair)

    def attend(self, layer: AttentionLayer, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> Tensor:
        if (output_HTD := self._at_once(layer, q_HTD, k_KTD, v_KTD)) is not None:
            self.store_kv(k_KTD, v_KTD)
            return output_HTD
        outputs = []
        padding = q_HTD.shape[1] - sum(self.lengths)
        parts = zip(*(x.split([*self.lengths, padding], dim=1) for x in (q_HTD, k_KTD, v_KTD)), strict=True)
        for kept, (q, k, v) in zip(self._kept, parts, strict=False):
            outputs.append(_causal_attention(layer, q, k, v))
            kept.append((k, v))
        outputs.append(q_HTD.new_zeros(q_HTD.shape[0], padding, v_KTD.shape[-1]))
        return torch.cat(outputs, dim=1)

    def _at_once(self, layer: AttentionLayer, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> Tensor | None:
        """The attention of all prompts by one call, where the device has it."""
        if not backend_of(q_HTD.device).has_flash:
            return None
        if self._flash is None:
            self._flash = FlashAttention(self.segments, q_HTD.shape[1], self.longest, q_HTD.device)
        return self._flash.attend(layer, q_HTD, k_KTD, v_KTD)

    def caches(self) -> list[PromptCache]:
        return [PromptCache(length, kept) for length, kept in zip(self.lengths, self._kept, strict=True)]


def _causal_attention(layer: AttentionLayer, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> Tensor:
    """Attention of one prompt to itself."""
    parts, length = (q_HTD[None], k_KTD[None], v_KTD[None]), q_HTD.shape[1]
    is_plain = layer.softcap is None and layer.sinks_H is None and (layer.window is None or layer.window >= length)
    if is_plain and not backend_of(q_HTD.device).is_attention_float32:  # one kernel of a GPU, and no mask to build
        gqa = len(q_HTD) != len(k_KTD)
        return F.scaled_dot_product_attention(*parts, is_causal=True, scale=layer.scaling, enable_gqa=gqa)[0]
    return dot_product_attention(layer, *parts, causal_mask(length, length, layer.window, q_HTD.device))[0]


def choose_slots(active: Sequence[int], longest_prompt: int) -> int:
    """Slots a cell that make the cheapest grid for these numbers of active rows a prompt."""

    def cost(slots: int) -> float:
        cells = sum(-(-n // slots) for n in active)
        return cells * (slots + longest_prompt / _KEYS_WORTH_A_ROW)

    return min((1 << power for power in range(max(active).bit_length() + 1)), key=cost)


class DecodePlan(DecodeAttention):
    """One decode step after another over a fixed grid; a change of rows makes a new grid that takes them over.

    All rows write to the same place of their own cache, the grid's clock; a row that came with fewer tokens than
    another has unused, masked places in front.
    """

    def __init__(self, prompts: Sequence[PromptCache], slots: int, device: torch.device, max_tokens: int) -> None:
        self.slots = slots
        self.max_tokens = max_tokens
        self.num_cells = len(prompts)
        self.device = device
        self.prompt_length_C = torch.tensor([p.length for p in prompts], device=device)
        self.longest = -(-max(p.length for p in prompts) // PROMPT_STEP) * PROMPT_STEP
        self.prompts = [self._stack([p.layers[i] for p in prompts]) for i in range(len(prompts[0].layers))]
        self.own: list[tuple[Tensor, Tensor]] = []
        """Keys and values a layer, [C * K, S, T, D]."""
        self.clock = 0
        self.start_R = torch.zeros(self.num_rows, dtype=torch.long, device=device)
        """First place of each row's own tokens."""
        self._masks: dict[tuple[int | None, int], tuple[Tensor, Tensor]] = {}

    @property
    def num_rows(self) -> int:
        return self.num_cells * self.slots

    def _stack(self, layers: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The prompts' keys [C * K, D, L] and values [C * K, L, D] of one layer, padded to the longest."""
        k, v = layers[0]
        keys = k.new_zeros(len(layers), k.shape[0], k.shape[2], self.longest)
        values = v.new_zeros(len(layers), v.shape[0], self.longest, v.shape[2])
        for cell, (k, v) in enumerate(layers):
            keys[cell, :, :, : k.shape[1]] = k.transpose(1, 2)
            values[cell, :, : v.shape[1]] = v
        return keys.flatten(0, 1), values.flatten(0, 1)

    def take_rows(self, old: DecodePlan, source: Sequence[int | None]) -> None:
        """Carry over own keys and values: new row r continues old row source[r]; None starts empty."""
        keep = [(new, row) for new, row in enumerate(source) if row is not None]
        if not keep or not old.own:
            return
        new_rows = torch.tensor([n for n, _ in keep], device=self.device)
        old_rows = torch.tensor([o for _, o in keep], device=self.device)
        length_n = old.clock - old.start_R[old_rows]
        self.clock = int(length_n.max())
        self.start_R.fill_(self.clock)
        self.start_R[new_rows] = self.clock - length_n
        self.own = [
            (self._move(k, old, old_rows, new_rows), self._move(v, old, old_rows, new_rows)) for k, v in old.own
        ]

    def _move(self, cache: Tensor, old: DecodePlan, old_rows: Tensor, new_rows: Tensor) -> Tensor:
        """The last `clock` places of the kept rows, at the front of a cache of the new grid."""
        heads = cache.shape[0] // old.num_cells
        rows = cache.view(old.num_cells, heads, *cache.shape[1:]).transpose(1, 2).flatten(0, 1)[old_rows]
        fresh = cache.new_zeros(self.num_rows, heads, self._capacity(self.clock + 1), cache.shape[-1])
        fresh[new_rows, :, : self.clock] = rows[:, :, old.clock - self.clock : old.clock]
        grid = fresh.view(self.num_cells, self.slots, heads, *fresh.shape[2:]).transpose(1, 2)
        return grid.flatten(0, 1).contiguous()  # with a single cell the flattened grid would be a view

    def _capacity(self, places: int) -> int:
        """Room for that many tokens: what a completion needs at most, or the first capacity, doubled until it fits."""
        capacity = min(-(-self.max_tokens // _CAPACITY_STEP) * _CAPACITY_STEP, FIRST_CAPACITY)
        while capacity < places:
            capacity *= 2
        return capacity

    @property
    def now(self) -> int | Tensor:
        """The clock, as operations on tensors take it."""
        return self.clock

    def positions(self) -> Tensor:
        """Position of each row's next token in its sequence."""
        return self.prompt_length_C.repeat_interleave(self.slots) + self.now - self.start_R

    def advance(self) -> None:
        """Call when all layers have run."""
        self.clock += 1

    def attend(self, layer: AttentionLayer, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> Tensor:
        heads, width = k_KTD.shape[0], q_HTD.shape[-1]
        own_k, own_v = self._write(layer.index, k_KTD, v_KTD)
        prompt_k, prompt_v = self.prompts[layer.index]
        grid = (heads, -1, self.num_cells, self.slots, width)
        q_grid = q_HTD.view(grid).permute(2, 0, 3, 1, 4).reshape(self.num_cells * heads, -1, width)
        queries = q_grid.shape[1] // self.slots
        prompt_mask, own_mask = self._mask(layer.window, heads, own_k.shape[-2], queries)
        to_prompt = _scores(prompt_mask, q_grid, prompt_k, layer.scaling)
        to_own = _scores(own_mask, q_grid.view(-1, queries, width), own_k.transpose(1, 2), layer.scaling)
        p = self._softmax(layer, torch.cat([to_prompt, to_own.view(*q_grid.shape[:2], -1)], dim=-1), heads)
        p = p.to(own_v.dtype)
        p_own = p.view(own_k.shape[0], queries, -1)[..., self.longest :]
        out = torch.bmm(p_own, own_v).view(*q_grid.shape[:2], -1)
        out = torch.baddbmm(out, p[..., : self.longest], prompt_v)
        split = (self.num_cells, heads, self.slots, queries, -1)
        return out.view(split).permute(1, 3, 0, 2, 4).reshape(q_HTD.shape[0], self.num_rows, -1)

    def _softmax(self, layer: AttentionLayer, scores: Tensor, heads: int) -> Tensor:
        """Over prompt and own keys together; `scores` is [C * K, S * Q, L + T]."""
        if layer.softcap is not None:
            capped = layer.softcap * torch.tanh(scores / layer.softcap)
            scores = torch.where(scores == float("-inf"), scores, capped)
        if layer.sinks_H is None:
            return scores.softmax(-1)
        sinks_KQ = layer.sinks_H.to(scores.dtype).view(heads, -1)
        sinks = sinks_KQ.repeat(self.num_cells, self.slots).view(*scores.shape[:2], 1)
        return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1].contiguous()

    def _write(self, index: int, k_KTD: Tensor, v_KTD: Tensor) -> tuple[Tensor, Tensor]:
        """Put the step's keys and values in their places; returns those in use, [C * K * S, T, D]."""
        self._make_room(index, len(k_KTD), (k_KTD.shape[-1], v_KTD.shape[-1]))
        used = self._used(self.own[index][0].shape[2])
        in_use = []
        for cache, new in zip(self.own[index], (k_KTD, v_KTD), strict=True):
            self._put(cache, new)
            in_use.append(cache.flatten(0, 1)[:, :used])
        return in_use[0], in_use[1]

    def _put(self, cache: Tensor, new: Tensor) -> None:
        """A step's keys or values [K, R, D] into a layer's cache, at the clock."""
        heads = new.shape[0]
        grid = cache.view(self.num_cells, heads, *cache.shape[1:])
        grid[:, :, :, self.clock] = new.view(heads, self.num_cells, self.slots, -1).transpose(0, 1)

    def _used(self, capacity: int) -> int:
        """Places of the caches that a step reads."""
        return min(-(-(self.clock + 1) // 16) * 16, capacity)

    def _make_room(self, index: int, heads: int, widths: tuple[int, int]) -> None:
        """Let the layer's own caches reach beyond the clock."""
        if index == len(self.own):
            k, v = (
                torch.zeros(self.num_cells * heads, self.slots, self._capacity(1), w, device=self.device)
                for w in widths
            )
            self.own.append((k.to(self.prompts[index][0]), v.to(self.prompts[index][1])))
        if self.own[index][0].shape[2] <= self.clock:
            k, v = self.own[index]
            self.own[index] = (torch.cat([k, torch.zeros_like(k)], dim=2), torch.cat([v, torch.zeros_like(v)], dim=2))

    def caches(self, layers: Sequence[int], kv_heads: int, width: int) -> KVCaches:
        for index in layers:
            self._make_room(index, kv_heads, (width, width))
        pairs = [(*self.prompts[index], *self.own[index]) for index in layers]
        return KVCaches(pairs, self.prompt_length_C, self.start_R, self.slots, self.clock)

    def _mask(self, window: int | None, heads: int, own: int, queries: int) -> tuple[Tensor, Tensor]:
        """0 where a row may attend, else -inf: for prompt keys [C * K, S * Q or 1, L], for own ones [C * K * S, 1, T].

        Made once a step for all layers of a kind.
        """
        if (window, self.clock) not in self._masks:
            self._masks = {key: masks for key, masks in self._masks.items() if key[1] == self.clock}
            length_C1 = self.prompt_length_C[:, None]
            place_T, key_L = torch.arange(own, device=self.device), torch.arange(self.longest, device=self.device)
            sees_prompt = (key_L < length_C1).repeat_interleave(self.slots, dim=0)
            sees_own = (place_T <= self.now) & (place_T >= self.start_R[:, None])
            if window is not None:
                sees_prompt &= key_L > (self.positions() - window)[:, None]
                sees_own &= place_T > self.now - window
            prompt = _additive(sees_prompt).view(self.num_cells, 1, self.slots, 1, -1)
            if window is None:
                prompt_mask = prompt[:, 0, :1, 0].repeat_interleave(heads, dim=0)
            else:
                prompt_mask = prompt.expand(-1, heads, -1, queries, -1).reshape(
                    self.num_cells * heads, self.slots * queries, -1
                )
            own_mask = _additive(sees_own).view(self.num_cells, 1, self.slots, own).expand(-1, heads, -1, -1)
            self._masks[window, self.clock] = (prompt_mask, own_mask.reshape(-1, 1, own))
        return self._masks[window, self.clock]


def _scores(mask: Tensor, q: Tensor, k: Tensor, scaling: float) -> Tensor:
    """`mask + scaling * q k` in float32, whatever the factors' dtype."""
    if q.dtype == torch.float32:
        return torch.baddbmm(mask, q, k, alpha=scaling)
    return torch.add(mask, matmul_float32(q, k), alpha=scaling)


def _additive(visible: Tensor) -> Tensor:
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, float("-inf"))
