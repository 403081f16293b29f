"""Groups packed as `prompt, completion 1, ..., completion G`: the prompt is computed once, nothing is padded.

Shapes: N completions (rows), P packed tokens, C sampled tokens of all rows, T the longest completion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groupwise.policy.attention import AttentionLayer, Segments, causal_mask, dot_product_attention, segment_table
from groupwise.policy.backend import backend_of
from groupwise.policy.flash import FlashAttention
from groupwise.policy.flex import FlexAttention
from groupwise.types import TokenSet

BUCKET = 64
"""Packed tokens are padded to a multiple: kernels are built and kept for each new shape (0.2 GB a step, unpadded)."""


@dataclass(frozen=True)
class CompletionRows:
    """Completions with their prompts; equal neighbours in `group` share one prompt."""

    prompt_ids: Sequence[tuple[int, ...]]
    token_ids: Sequence[tuple[int, ...]]
    group: Sequence[int]
    kept_ids: Sequence[Sequence[TokenSet] | None] | None = None
    sampled: Sequence[Sequence[int]] | None = None
    """Places of the tokens that are predicted and trained in each completion, in order; None: all of them."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def predicted(self, row: int) -> Sequence[int]:
        """The places of the row's sampled tokens."""
        return range(len(self.token_ids[row])) if self.sampled is None else self.sampled[row]

    def targets(self) -> list[int]:
        """The sampled tokens of all rows, one row after another."""
        return [self.token_ids[row][place] for row in range(len(self)) for place in self.predicted(row)]

    def select(self, rows: Sequence[int]) -> CompletionRows:
        kept = None if self.kept_ids is None else [self.kept_ids[i] for i in rows]
        sampled = None if self.sampled is None else [self.sampled[i] for i in rows]
        prompts, tokens = [self.prompt_ids[i] for i in rows], [self.token_ids[i] for i in rows]
        return CompletionRows(prompts, tokens, [self.group[i] for i in rows], kept, sampled)

    def runs(self) -> list[list[int]]:
        """Row numbers, cut where the group changes."""
        runs: list[list[int]] = []
        for row, group in enumerate(self.group):
            if runs and self.group[runs[-1][-1]] == group:
                runs[-1].append(row)
            else:
                runs.append([row])
        return runs


def micro_batches(rows: CompletionRows, max_tokens: int) -> list[list[int]]:
    """Row numbers of each learner pass: at most `max_tokens` packed tokens, a prompt counted once a pass.

    A group may be split over passes; a row that is too long on its own is a pass of its own.
    """
    batches: list[list[int]] = []
    used = 0
    for row, group in enumerate(rows.group):
        opens_group = not batches or not batches[-1] or rows.group[batches[-1][-1]] != group
        cost = len(rows.token_ids[row]) + (len(rows.prompt_ids[row]) if opens_group else 0)
        if not batches or used + cost > max_tokens:
            batches.append([])
            used, cost = 0, len(rows.token_ids[row]) + len(rows.prompt_ids[row])
        batches[-1].append(row)
        used += cost
    return batches


def packed_tokens(rows: CompletionRows, part: Sequence[int]) -> int:
    """Packed tokens of one pass over the rows `part`."""
    runs = rows.select(part).runs()
    return sum(len(rows.prompt_ids[part[run[0]]]) + sum(len(rows.token_ids[part[i]]) for i in run) for run in runs)


def group_tokens(rows: CompletionRows) -> int:
    """Packed tokens of the largest group."""
    return max(len(rows.prompt_ids[run[0]]) + sum(len(rows.token_ids[row]) for row in run) for run in rows.runs())


@dataclass(frozen=True)
class _PackedGroup:
    """One group inside the pack."""

    start: int
    prompt_length: int
    lengths: tuple[int, ...]
    """Input tokens of each completion (its last token predicts nothing and is left out)."""
    gather: Tensor
    """[G * longest] pack index of every padded completion slot."""
    scatter: Tensor
    """[sum of lengths] padded slot of every packed completion token."""

    @property
    def longest(self) -> int:
        return max(self.lengths)

    def segments(self) -> Iterator[tuple[int, int, int, int]]:
        """The prompt, which sees itself, and every completion, which sees the prompt too."""
        yield self.start, self.prompt_length, 0, 0
        first = self.start + self.prompt_length
        for length in self.lengths:
            yield first, length, self.start, self.prompt_length
            first += length


class Pack(Segments):
    """The packed tokens of some rows, and the plan by which they attend."""

    def __init__(self, rows: CompletionRows, device: torch.device) -> None:
        ids: list[int] = []
        positions: list[int] = []
        predict: list[int] = []
        self.groups: list[_PackedGroup] = []
        for run in rows.runs():
            prompt = rows.prompt_ids[run[0]]
            start = len(ids)
            ids += prompt
            positions += range(len(prompt))
            for row in run:
                inputs = rows.token_ids[row][:-1]
                before = len(ids) - 1  # the first token is predicted by the last one of the prompt
                predict += [before + place if place else start + len(prompt) - 1 for place in rows.predicted(row)]
                ids += inputs
                positions += range(len(prompt), len(prompt) + len(inputs))
            lengths = tuple(max(len(rows.token_ids[row]) - 1, 0) for row in run)
            self.groups.append(_packed_group(start, len(prompt), lengths, device))
        self.segments, self.longest = segment_table([segment for group in self.groups for segment in group.segments()])
        self.num_padding = -len(ids) % BUCKET
        ids += ids[:1] * self.num_padding
        positions += [0] * self.num_padding
        self.num_targets = len(predict)
        predict += [0] * (-len(predict) % BUCKET)
        targets = rows.targets()
        targets += [0] * (len(predict) - len(targets))
        self.input_ids_P = torch.tensor(ids, device=device)
        self.position_ids_P = torch.tensor(positions, device=device)
        self.predict_C = torch.tensor(predict, device=device, dtype=torch.long)
        """Packed position whose hidden state predicts each sampled token; beyond `num_targets`, padding."""
        self.target_C = torch.tensor(targets, device=device, dtype=torch.long)
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}
        traits = backend_of(device)
        self._flash = FlashAttention(self.segments, len(ids), self.longest, device) if traits.has_flash else None
        self._flex = FlexAttention(self.segments, self.position_ids_P) if traits.has_flex else None

    def attend(self, layer: AttentionLayer, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> Tensor:
        for fast in (self._flash, self._flex):
            if fast is not None and (output_HTD := fast.attend(layer, q_HTD, k_KTD, v_KTD)) is not None:
                return output_HTD
        outputs = []
        for group in self.groups:
            end = group.start + group.prompt_length
            q, k, v = (x[:, group.start : end].unsqueeze(0) for x in (q_HTD, k_KTD, v_KTD))
            mask = self._mask(group.prompt_length, group.prompt_length, layer.window, q.device)
            outputs.append(dot_product_attention(layer, q, k, v, mask)[0])
            if group.longest:
                outputs.append(self._attend_completions(layer, group, q_HTD, k_KTD, v_KTD))
        if self.num_padding:
            outputs.append(q_HTD.new_zeros(q_HTD.shape[0], self.num_padding, v_KTD.shape[-1]))
        return torch.cat(outputs, dim=1)

    def _attend_completions(
        self, layer: AttentionLayer, group: _PackedGroup, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor
    ) -> Tensor:
        """Each completion attends to the shared prompt and to itself; output [H, sum of lengths, D]."""
        num, longest = len(group.lengths), group.longest
        q, k, v = (_gather(x, group).unflatten(1, (num, longest)).transpose(0, 1) for x in (q_HTD, k_KTD, v_KTD))
        prompt = slice(group.start, group.start + group.prompt_length)
        k = torch.cat([k_KTD[:, prompt].expand(num, -1, -1, -1), k], dim=2)
        v = torch.cat([v_KTD[:, prompt].expand(num, -1, -1, -1), v], dim=2)
        mask = self._mask(longest, group.prompt_length + longest, layer.window, q.device)
        out = dot_product_attention(layer, q, k, v, mask)
        return out.transpose(0, 1).flatten(1, 2).index_select(1, group.scatter)

    def _mask(self, num_queries: int, num_keys: int, window: int | None, device: torch.device) -> Tensor:
        key = (num_queries, num_keys, window)
        if key not in self._masks:
            self._masks[key] = causal_mask(num_queries, num_keys, window, device)
        return self._masks[key]


def _packed_group(start: int, prompt_length: int, lengths: tuple[int, ...], device: torch.device) -> _PackedGroup:
    longest = max(lengths)
    first = start + prompt_length
    gather: list[int] = []
    scatter: list[int] = []
    for number, length in enumerate(lengths):
        gather += [*range(first, first + length), *([start] * (longest - length))]
        scatter += range(number * longest, number * longest + length)
        first += length
    tensors = (torch.tensor(values, device=device, dtype=torch.long) for values in (gather, scatter))
    return _PackedGroup(start, prompt_length, lengths, *tensors)


def _gather(x_HTD: Tensor, group: _PackedGroup) -> Tensor:
    """The group's completions padded to its longest; padded slots repeat a prompt token and are never read."""
    return x_HTD.index_select(1, group.gather)
