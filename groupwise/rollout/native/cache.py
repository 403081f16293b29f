"""Keys and values while decoding: each prompt's once for its group, each completion's own.

Rows sit in a grid of *cells*: one cell holds up to S completions of one prompt and one copy of the prompt's keys and
values, so attention to prompts is one batched product for all cells. Empty slots compute and are ignored.

Shapes: C cells, S slots a cell, R = C * S rows, K key/value heads, Q query heads a key head, L longest prompt,
T own capacity, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...policy.attention import Layer, causal_mask, dot_product_attention

FIRST_CAPACITY = 32
_KEYS_WORTH_A_ROW = 512
"""How many more prompt keys to read cost about as much as one more row to compute."""


@dataclass(frozen=True)
class PromptCache:
    """Keys and values of one prompt, a [K, L, D] pair a layer."""

    length: int
    layers: list[tuple[Tensor, Tensor]]


class PrefillPlan:
    """Causal attention inside each of several packed prompts, keeping their keys and values."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        self._kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in lengths]

    def attend(self, layer: Layer, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> Tensor:
        outputs = []
        parts = zip(*(x.split(self.lengths, dim=1) for x in (q_HTD, k_KTD, v_KTD)), strict=True)
        for kept, (q, k, v) in zip(self._kept, parts, strict=True):
            mask = causal_mask(q.shape[1], q.shape[1], layer.window, q.device)
            outputs.append(dot_product_attention(layer, q[None], k[None], v[None], mask)[0])
            kept.append((k, v))
        return torch.cat(outputs, dim=1)

    def caches(self) -> list[PromptCache]:
        return [PromptCache(length, kept) for length, kept in zip(self.lengths, self._kept, strict=True)]


def choose_slots(active: Sequence[int], longest_prompt: int) -> int:
    """Slots a cell that make the cheapest grid for these numbers of active rows a prompt."""

    def cost(slots: int) -> float:
        cells = sum(-(-n // slots) for n in active)
        return cells * (slots + longest_prompt / _KEYS_WORTH_A_ROW)

    return min((1 << power for power in range(max(active).bit_length() + 1)), key=cost)


class DecodePlan:
    """One decode step after another over a fixed grid; a change of rows makes a new grid with `rearranged`."""

    def __init__(self, prompts: Sequence[PromptCache], slots: int, device: torch.device) -> None:
        self.slots = slots
        self.num_cells = len(prompts)
        self.prompt_length_C = torch.tensor([p.length for p in prompts], device=device)
        self.longest = int(self.prompt_length_C.max())
        self.prompts = [self._stack([p.layers[i] for p in prompts]) for i in range(len(prompts[0].layers))]
        self.own: list[tuple[Tensor, Tensor]] = []
        self.length_R = torch.zeros(self.num_cells * slots, dtype=torch.long, device=device)
        self.steps = 0
        self._masks: dict[int | None, Tensor] = {}

    def _stack(self, layers: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        stacked = []
        for part in (0, 1):
            first = layers[0][part]
            out = first.new_zeros(len(layers), first.shape[0], self.longest, first.shape[2])
            for cell, pair in enumerate(layers):
                out[cell, :, : pair[part].shape[1]] = pair[part]
            stacked.append(out)
        return stacked[0], stacked[1]

    def take_rows(self, old: DecodePlan, source: Sequence[int | None]) -> None:
        """Carry over own keys and values: new row r continues old row source[r]; None starts empty."""
        keep = [(new, row) for new, row in enumerate(source) if row is not None]
        if not keep or not old.own:
            return
        new_rows = torch.tensor([n for n, _ in keep], device=self.length_R.device)
        old_rows = torch.tensor([o for _, o in keep], device=self.length_R.device)
        self.length_R[new_rows] = old.length_R[old_rows]
        self.steps = int(self.length_R.max())
        for pair in old.own:
            moved = []
            for x in pair:  # CKSTD -> rows in front
                rows = x.transpose(1, 2).flatten(0, 1)[old_rows]
                fresh = x.new_zeros(self.num_cells * self.slots, *rows.shape[1:])
                fresh[new_rows] = rows
                moved.append(fresh.unflatten(0, (self.num_cells, self.slots)).transpose(1, 2).contiguous())
            self.own.append((moved[0], moved[1]))

    def begin_step(self, is_active_R: Tensor) -> Tensor:
        """Position of each row's new token. Call `end_step` when all layers have run."""
        self._masks = {}
        self._write_R = self.length_R.clone()
        self._is_active_R = is_active_R
        return self.prompt_length_C.repeat_interleave(self.slots) + self.length_R

    def end_step(self) -> None:
        self.length_R += self._is_active_R.long()
        self.steps = int(self.length_R.max())

    def attend(self, layer: Layer, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> Tensor:
        own_k, own_v = self._write(layer.index, k_KTD, v_KTD)
        prompt_k, prompt_v = self.prompts[layer.index]
        cells, slots, heads, width = self.num_cells, self.slots, k_KTD.shape[0], q_HTD.shape[-1]
        q = q_HTD.view(heads, -1, cells, slots, width).permute(2, 0, 3, 1, 4)  # CKSQD
        q_grid = (q * layer.scaling).reshape(cells, heads, -1, width)
        to_prompt = (q_grid @ prompt_k.transpose(-1, -2)).view(cells, heads, slots, -1, self.longest)
        to_own = q_grid.view(cells, heads, slots, -1, width) @ own_k.transpose(-1, -2)
        scores = torch.cat([to_prompt, to_own], dim=-1)
        p = self._softmax(layer, scores)
        p_prompt = p[..., : self.longest].reshape(cells, heads, -1, self.longest)
        out = (p_prompt @ prompt_v).view(cells, heads, slots, -1, width) + p[..., self.longest :] @ own_v
        return out.permute(1, 3, 0, 2, 4).reshape(q_HTD.shape)

    def _softmax(self, layer: Layer, scores: Tensor) -> Tensor:
        """Over prompt and own keys together; `scores` is CKSQ[L + T]."""
        if layer.softcap is not None:
            scores = layer.softcap * torch.tanh(scores / layer.softcap)
        scores = scores + self._mask(layer.window, scores.shape[-1] - self.longest).to(scores.dtype)
        if layer.sinks_H is None:
            return scores.softmax(-1)
        sinks = layer.sinks_H.to(scores.dtype).view(1, scores.shape[1], 1, -1, 1).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]

    def _write(self, index: int, k_KTD: Tensor, v_KTD: Tensor) -> tuple[Tensor, Tensor]:
        """Put the step's keys and values in their places; returns those in use, CKSTD."""
        if index == len(self.own):
            empty = k_KTD.new_zeros(self.num_cells, k_KTD.shape[0], self.slots, FIRST_CAPACITY, k_KTD.shape[-1])
            self.own.append((empty, torch.zeros_like(empty[..., : v_KTD.shape[-1]])))
        if self.own[index][0].shape[3] <= self.steps:
            self.own[index] = tuple(torch.cat([x, torch.zeros_like(x)], dim=3) for x in self.own[index])  # type: ignore[assignment]
        cell_R = torch.arange(self.num_cells, device=k_KTD.device).repeat_interleave(self.slots)
        slot_R = torch.arange(self.slots, device=k_KTD.device).repeat(self.num_cells)
        used = self._used(self.own[index][0].shape[3])
        for cache, new in zip(self.own[index], (k_KTD, v_KTD), strict=True):
            cache[cell_R, :, slot_R, self._write_R] = new.transpose(0, 1)
        own_k, own_v = self.own[index]
        return own_k[:, :, :, :used], own_v[:, :, :, :used]

    def _used(self, capacity: int) -> int:
        """Own keys in use, rounded up so that products keep their shapes for a while."""
        return min(-(-(self.steps + 1) // 16) * 16, capacity)

    def _mask(self, window: int | None, own: int) -> Tensor:
        """0 where a row may look and -inf elsewhere, [C, 1, S, 1, L + own]."""
        if window not in self._masks:
            device = self.length_R.device
            length_R1 = self.prompt_length_C.repeat_interleave(self.slots)[:, None]
            prompt_L, own_T = torch.arange(self.longest, device=device), torch.arange(own, device=device)
            visible = torch.cat([prompt_L < length_R1, own_T <= self._write_R[:, None]], dim=1)
            if window is not None:
                query_R1 = length_R1 + self._write_R[:, None]
                position = torch.cat([prompt_L.expand(len(length_R1), -1), length_R1 + own_T], dim=1)
                visible &= position > query_R1 - window
            mask = torch.zeros(visible.shape, device=device).masked_fill_(~visible, float("-inf"))
            self._masks[window] = mask.view(self.num_cells, 1, self.slots, 1, -1)
        return self._masks[window]
