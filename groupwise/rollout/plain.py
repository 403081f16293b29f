"""The slow engine: transformers' own forward pass and cache, for models without a fast path and for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from groupwise.policy.deterministic import deterministic
from groupwise.rollout.engine import Capabilities
from groupwise.rollout.nonfinite_logits import locate_nonfinite
from groupwise.rollout.plain_decoding import ForwardMode, GrowingTexts, choose_forward_mode
from groupwise.rollout.sequences import SequenceState, draw_tokens, new_sequences
from groupwise.types import Completion, Request


class PlainEngine:
    """One request at a time through the model's own `forward`.

    Raises ModelError, when it is made, for a model that cannot be sampled and scored by its own code.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model = model
        self.dtype = dtype
        self.version = 0
        self.mode: ForwardMode = choose_forward_mode(model)
        self.capabilities = Capabilities("transformers" if self.mode.has_cache else "transformers, without its cache")

    def load_weights(self, policy: Any, version: int) -> None:
        self.version = version

    def close(self) -> None:
        """There is nothing to release."""

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[Completion]]]:
        for number, request in enumerate(requests):
            rows = new_sequences(number, request)
            with locate_nonfinite(self.model, self.dtype):
                self._run(request, rows)
            yield number, [row.finish(self.version) for row in rows]

    @torch.no_grad()
    def _run(self, request: Request, rows: list[SequenceState]) -> None:
        device = next(self.model.parameters()).device
        texts = GrowingTexts(self.model, self.mode, torch.tensor([request.prompt_ids] * len(rows), device=device))
        with (
            deterministic(self.model),
            torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16),
        ):
            while not all(row.is_finished for row in rows):
                live = [r for r, row in enumerate(rows) if not row.is_finished]
                draw_tokens(texts.next_logits()[live], [rows[r] for r in live])
                texts.append(torch.tensor([row.token_ids[-1] for row in rows], device=device))
