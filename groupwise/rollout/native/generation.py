"""One call of `generate` for requests with equal sampling: continuous batching over a grid of rows.

The schedule depends on the requests alone, never on time or free memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from groupwise.kernels.buffer import Buffer
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.packing import BUCKET
from groupwise.rollout.native.kv_cache import DecodePlan, PrefillPlan, PromptCache, choose_slots
from groupwise.rollout.native.sessions import ExtendPlan, Prefix, Sessions
from groupwise.rollout.sequences import SequenceState, draw_tokens, new_sequences
from groupwise.types import Completion, Request, Sampling

PREFILL_TOKENS = 4096
"""Prompt tokens of one prefill pass, at most (a longer prompt is a pass of its own)."""
_ROWS = 8
"""Grids of more rows than this are padded to a multiple, so that products keep to a few shapes."""
WORTH_REARRANGING = 0.75
"""Rearrange the grid when the cheaper one has at most this share of its rows."""


class Generation:
    """Decodes by single operations over a grid that is made anew whenever its rows change."""

    def __init__(
        self,
        fused: FusedModel,
        version: int,
        max_rows: int,
        sampling: Sampling,
        requests: list[tuple[int, Request]],
        sessions: Sessions,
    ) -> None:
        self.sessions = sessions
        self.fused, self.version, self.max_rows, self.sampling = fused, version, max_rows, sampling
        self.rows_of = {number: new_sequences(number, request) for number, request in requests}
        self.waiting = [row for rows in self.rows_of.values() for row in rows]
        self.prompts: dict[int, PromptCache] = {}
        self.first_logits: dict[int, Tensor] = {}
        self.plan: DecodePlan | None = None
        self.grid: list[SequenceState | None] = []
        self._logits = Buffer()
        """Of one decode step; its tokens are drawn before the next."""

    def run(self) -> Iterator[tuple[int, list[Completion]]]:
        while self.waiting or any(self._active()):
            if self._should_rearrange():
                self._rearrange()
            else:
                self._decode()
            yield from self._finished_requests()

    def _active(self) -> list[SequenceState]:
        return [row for row in self.grid if row is not None and not row.is_finished]

    def _should_rearrange(self) -> bool:
        active = self._active()
        if not active:
            return True
        if self.waiting:
            return len(active) <= self.max_rows * WORTH_REARRANGING
        return len(self._layout(active)[0]) <= len(self.grid) * WORTH_REARRANGING

    def _finished_requests(self) -> Iterator[tuple[int, list[Completion]]]:
        done = [n for n, rows in self.rows_of.items() if all(row.is_finished for row in rows)]
        for number in done:
            self.prompts.pop(number, None)
            self.first_logits.pop(number, None)
            yield number, [row.finish(self.version) for row in self.rows_of.pop(number)]

    def _rearrange(self) -> None:
        """Let waiting rows enter and lay all active rows out anew."""
        active = self._admit_waiting()
        old_plan, old_grid = self.plan, self.grid
        self.plan, self.grid = None, []
        if not active:
            return
        self.grid, slots = self._layout(active)
        with torch.inference_mode():
            cells = [self._prompt_of(self.grid[i : i + slots]) for i in range(0, len(self.grid), slots)]
            self.plan = DecodePlan(cells, slots, self.fused.device, self.sampling.max_tokens)
            if old_plan is not None:
                place = {id(row): r for r, row in enumerate(old_grid) if row is not None}
                source = [place.get(id(row)) if row is not None else None for row in self.grid]
                self.plan.take_rows(old_plan, source)

    def _admit_waiting(self) -> list[SequenceState]:
        """As many waiting rows as there is room for, after their first token, behind the active ones."""
        active = self._active()
        entering = self.waiting[: max(self.max_rows - len(active), 0)]
        self.waiting = self.waiting[len(entering) :]
        self._prefill(entering)
        self._sample_first(entering)
        return active + [row for row in entering if not row.is_finished]

    def _prompt_of(self, cell: list[SequenceState | None]) -> PromptCache:
        """The prompt that a cell's rows share; a cell of padding takes any."""
        row = next((r for r in cell if r is not None), self.grid[0])
        assert row is not None
        return self.prompts[row.number]

    def _layout(self, active: list[SequenceState]) -> tuple[list[SequenceState | None], int]:
        """Rows cell by cell, with None in empty slots, and the slots a cell."""
        by_prompt = group_by_prompt(active)
        longest = max(len(row.request.prompt_ids) for row in active)
        slots = choose_slots([len(rows) for rows in by_prompt], longest)
        grid: list[SequenceState | None] = []
        for rows in by_prompt:
            grid += rows + [None] * (-len(rows) % slots)
        return grid + [None] * _padding(len(grid), slots), slots

    @torch.inference_mode()
    def _prefill(self, entering: list[SequenceState]) -> None:
        """Run the prompts that are not cached yet, or what is new in them, several to a pass."""
        new = {row.number: row.request for row in entering if row.number not in self.prompts}
        found = {number: self.sessions.find(request) for number, request in new.items()}
        for kind in (False, True):
            chosen = [
                _Part(number, request, prefix)
                for (number, request), prefix in zip(new.items(), found.values(), strict=True)
                if (prefix is not None) == kind
            ]
            for batch in _batches(chosen):
                self._prefill_pass(batch)

    def _prefill_pass(self, batch: list[_Part]) -> None:
        """One pass over prompts, or over what follows the prefix of each."""
        lengths = [len(part.ids) for part in batch]
        prefixes = [part.prefix.cache for part in batch if part.prefix is not None]
        plan = ExtendPlan(prefixes, lengths) if prefixes else PrefillPlan(lengths)
        device = self.fused.device
        padding = -sum(lengths) % BUCKET
        ids_P = torch.tensor([t for part in batch for t in part.ids] + [0] * padding, device=device)
        starts = [*(part.start for part in batch), 0]
        spans = zip(starts, [*lengths, padding], strict=True)
        positions_P = torch.cat([torch.arange(start, start + n, device=device) for start, n in spans])
        hidden_PD = self.fused.hidden(ids_P, positions_P, plan)
        last = torch.tensor(lengths, device=device).cumsum(0) - 1
        logits_NV = self.fused.head.logits(hidden_PD[last])
        for part, cache, logits in zip(batch, plan.caches(), logits_NV, strict=True):
            self.prompts[part.number] = cache
            self.first_logits[part.number] = logits.clone()
            self.sessions.keep(part.request, cache)

    @torch.inference_mode()
    def _sample_first(self, entering: list[SequenceState]) -> None:
        if entering:
            logits_RV = torch.stack([self.first_logits[row.number] for row in entering])
            draw_tokens(logits_RV, list(entering), self.fused.kernel_dtype)

    @torch.inference_mode()
    def _decode(self) -> None:
        """One token for every active row."""
        assert self.plan is not None
        device = self.fused.device
        ids_R = torch.tensor([row.token_ids[-1] if row is not None else 0 for row in self.grid], device=device)
        hidden_RD = self.fused.hidden(ids_R, self.plan.positions(), self.plan)
        self.plan.advance()
        rows = self._active()
        if len(rows) < len(self.grid):
            is_active = [row is not None and not row.is_finished for row in self.grid]
            hidden_RD = hidden_RD[torch.tensor(is_active, device=device)]
        draw_tokens(self.fused.head.logits(hidden_RD, self._logits), rows, self.fused.kernel_dtype)


@dataclass(frozen=True)
class _Part:
    """What a pass of the prefill computes of one prompt."""

    number: int
    request: Request
    prefix: Prefix | None

    @property
    def start(self) -> int:
        """Place of its first new token."""
        return 0 if self.prefix is None else self.prefix.cache.length

    @property
    def ids(self) -> tuple[int, ...]:
        return self.request.prompt_ids[self.start :]


def _batches(parts: list[_Part]) -> Iterator[list[_Part]]:
    """The parts of each pass."""
    batch: list[_Part] = []
    for part in parts:
        if batch and sum(len(p.ids) for p in batch) + len(part.ids) > PREFILL_TOKENS:
            yield batch
            batch = []
        batch.append(part)
    if batch:
        yield batch


def _padding(num_rows: int, slots: int) -> int:
    """Empty rows, whole cells of them, that round a grid up; both numbers that must divide it are powers of two."""
    return -num_rows % max(_ROWS, slots) if num_rows > _ROWS else 0


def group_by_prompt(rows: list[SequenceState]) -> list[list[SequenceState]]:
    """Rows of one prompt beside each other, in order."""
    ordered = sorted(rows, key=lambda r: (r.number, r.index))
    return [list(same) for _, same in groupby(ordered, key=lambda r: r.number)]
