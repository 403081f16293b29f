"""Decoding over static buffers: places of the rows, their moves, and the buffers kept between calls."""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

from groupwise.kernels.gpu_ops import power_of_two
from groupwise.policy.fused_model import FusedModel
from groupwise.rollout.native.generation import WORTH_REARRANGING, Generation, group_by_prompt
from groupwise.rollout.native.kv_cache import PromptCache, choose_slots
from groupwise.rollout.native.recorder import Recorder
from groupwise.rollout.native.static_grid import (
    AHEAD,
    BLOCK,
    FIRST_OWN,
    LEAST_OWN,
    LEAST_PROMPT,
    LEAST_ROWS,
    Block,
    Bucket,
    StaticGrid,
    is_drawn_in_step,
    sample_cache,
)  # fmt: skip
from groupwise.rollout.nonfinite_logits import NonFiniteLogitsError
from groupwise.rollout.sequences import SequenceState
from groupwise.types import Completion, Sampling


class StaticDecoder:
    """The buffers and recordings of an engine, kept over steps, evaluations and changes of the weights."""

    def __init__(self, fused: FusedModel, recorder: Recorder) -> None:
        self.fused, self.recorder = fused, recorder
        self.grids: dict[Bucket, StaticGrid] = {}
        self.is_busy = False
        """Whether a call is under way: another one meanwhile decodes by single operations."""
        self._weights: list[int] = []

    @functools.cached_property
    def like(self) -> PromptCache | None:
        """A cache of the kind that the buffers hold; None where the model's layers differ too much for them."""
        return sample_cache(self.fused)

    def can_decode(self, sampling: Sampling) -> bool:
        """Whether a call that samples like this runs here now; else it decodes by single operations."""
        return not self.is_busy and is_drawn_in_step(sampling) and self.like is not None

    def grid(self, bucket: Bucket) -> StaticGrid:
        """The buffers of this bucket."""
        if bucket not in self.grids:
            assert self.like is not None
            self.grids[bucket] = StaticGrid(self.fused, bucket, self.like)
        return self.grids[bucket]

    def check_weights(self) -> None:
        """Forget the recordings where a weight has moved in memory, which a recording cannot follow."""
        found = [tensor.data_ptr() for tensor in self.fused.tensors()]
        if found != self._weights:
            for grid in self.grids.values():
                grid.forget_recording()
        self._weights = found


class StaticGeneration(Generation):
    """Decodes by replayed steps; the host reads results once in several tokens."""

    def __init__(self, decoder: StaticDecoder, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.decoder = decoder
        self.buffers: StaticGrid | None = None
        self.blocks: deque[Block] = deque()
        """Blocks that were started and are not read yet."""
        self.num_blocks = 0
        self.cells: list[int | None] = []
        """Number of the prompt in each cell."""
        requests = [rows[0].request for rows in self.rows_of.values()]
        longest = max(len(request.prompt_ids) for request in requests)
        self.prompt_capacity = power_of_two(longest, LEAST_PROMPT)
        self.slots = choose_slots([min(request.num_completions, self.max_rows) for request in requests], longest)

    def run(self) -> Iterator[tuple[int, list[Completion]]]:
        self.decoder.is_busy = True
        try:
            yield from super().run()
        finally:
            self.decoder.is_busy = False

    def _should_rearrange(self) -> bool:
        active = self._active()
        if not active or self.buffers is None:
            return True
        if self.waiting and len(active) <= self.max_rows * WORTH_REARRANGING:
            return True
        bucket = self._bucket(active)
        return bucket.rows < self.buffers.bucket.rows or bucket.own > self.buffers.bucket.own

    def _bucket(self, active: list[SequenceState]) -> Bucket:
        """The smallest buffers in which these rows can sample another block."""
        cells = sum(-(-len(rows) // self.slots) for rows in group_by_prompt(active))
        limit = self.sampling.max_tokens
        needed = min(max(len(row.token_ids) for row in active) + BLOCK, limit)
        return Bucket(
            rows=power_of_two(cells * self.slots, max(LEAST_ROWS, self.slots)),
            slots=self.slots,
            prompt=self.prompt_capacity,
            own=power_of_two(needed, max(LEAST_OWN, min(power_of_two(limit, 1), FIRST_OWN))),
            is_greedy=self.sampling.temperature == 0,
        )

    def _rearrange(self) -> None:
        """Let waiting rows enter and lay all active rows out anew, in the buffers that they need."""
        while self.blocks:
            self._read()
        active = self._admit_waiting()
        old, old_grid, old_cells = self.buffers, self.grid, self.cells
        self.buffers, self.grid, self.cells = None, [], []
        if active:
            with torch.inference_mode():
                self._lay_out(active, old, old_grid, old_cells)

    def _lay_out(
        self,
        active: list[SequenceState],
        old: StaticGrid | None,
        old_grid: list[SequenceState | None],
        old_cells: list[int | None],
    ) -> None:
        bucket = self._bucket(active)
        self.buffers = new = self.decoder.grid(bucket)
        for rows in group_by_prompt(active):
            self.grid += rows + [None] * (-len(rows) % self.slots)
            self.cells += [rows[0].number] * -(-len(rows) // self.slots)
        self.grid += [None] * (bucket.rows - len(self.grid))
        self.cells += [None] * (new.num_cells - len(self.cells))
        if old is not None:
            place = {id(row): r for r, row in enumerate(old_grid) if row is not None}
            new.take_rows(old, [(r, place[id(row)]) for r, row in enumerate(self.grid) if id(row) in place])
        is_known = old_cells if old is new else [None] * new.num_cells
        new.set_prompts({c: self.prompts[n] for c, n in enumerate(self.cells) if n is not None and n != is_known[c]})
        new.set_sampling(self.sampling)
        new.set_rows(self.grid)

    @torch.inference_mode()
    def _decode(self) -> None:
        """Read a block of tokens of every active row, while the next one is drawn."""
        while len(self.blocks) < AHEAD and (count := self._next_count()) > 0:
            assert self.buffers is not None
            self.blocks.append(self.buffers.launch(count, self.num_blocks, self.decoder.recorder))
            self.num_blocks += 1
        self._read()

    def _next_count(self) -> int:
        """Tokens of the next block: fewer where no row may take that many, 0 where the buffers have no more room."""
        assert self.buffers is not None
        longest = [len(row.token_ids) for row in self._active()]
        under_way = sum(block.count for block in self.blocks)
        count = min(BLOCK, self.sampling.max_tokens - min(longest) - under_way)
        return (
            count if min(max(longest) + under_way + count, self.sampling.max_tokens) <= self.buffers.bucket.own else 0
        )

    def _read(self) -> None:
        """Append the tokens of the oldest block."""
        token_BR, logprob_BR = self.blocks.popleft().read()
        tokens, logprobs = token_BR.T.tolist(), logprob_BR.T.tolist()
        for r, row in enumerate(self.grid):
            if row is not None and not row.is_finished:
                _extend(row, tokens[r], logprobs[r])


def _extend(row: SequenceState, tokens: list[int], logprobs: list[float]) -> None:
    """Append tokens until the row ends; what was sampled behind its end is dropped."""
    for token, logprob in zip(tokens, logprobs, strict=True):
        if not math.isfinite(logprob):
            raise NonFiniteLogitsError(row.request, row.index, row.token_ids)
        row.append(token, logprob, None)
        if row.is_finished:
            return
