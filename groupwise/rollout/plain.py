"""The slow twin: transformers' own forward pass with its own cache, for models without a fast path and for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from groupwise.policy.deterministic import deterministic
from groupwise.rollout.engine import Capabilities
from groupwise.rollout.growing import Growing, Way, choose_way
from groupwise.rollout.not_finite import telling_where
from groupwise.rollout.sequences import Sequence as Row
from groupwise.rollout.sequences import draw_tokens, open_sequences
from groupwise.types import Completion, Request


class PlainEngine:
    """One request at a time through the model's own `forward`.

    Raises ModelError, when it is made, for a model that cannot be sampled and scored by its own code.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model = model
        self.dtype = dtype
        self.version = 0
        self.way: Way = choose_way(model)
        self.capabilities = Capabilities("transformers" if self.way.has_cache else "transformers, without its cache")

    def load_weights(self, policy: Any, version: int) -> None:
        self.version = version

    def close(self) -> None:
        pass

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[Completion]]]:
        for number, request in enumerate(requests):
            rows = open_sequences(number, request)
            with telling_where(self.model, self.dtype):
                self._run(request, rows)
            yield number, [row.finish(self.version) for row in rows]

    @torch.no_grad()
    def _run(self, request: Request, rows: list[Row]) -> None:
        device = next(self.model.parameters()).device
        texts = Growing(self.model, self.way, torch.tensor([request.prompt_ids] * len(rows), device=device))
        with (
            deterministic(self.model),
            torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16),
        ):
            while not all(row.is_finished for row in rows):
                live = [r for r, row in enumerate(rows) if not row.is_finished]
                draw_tokens(texts.next_logits()[live], [rows[r] for r in live])
                texts.append(torch.tensor([row.token_ids[-1] for row in rows], device=device))
