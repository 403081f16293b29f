"""The slow twin: transformers' own forward pass with its own cache, for models without a fast path and for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..policy.deterministic import deterministic
from ..types import Completion, Request
from .engine import Capabilities
from .sequences import Sequence as Row
from .sequences import draw_tokens, open_sequences


class PlainEngine:
    """One request at a time through the model's own `forward` and key/value cache."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model = model
        self.dtype = dtype
        self.version = 0
        self.capabilities = Capabilities("transformers")

    def load_weights(self, policy: Any, version: int) -> None:
        self.version = version

    def close(self) -> None:
        pass

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[Completion]]]:
        for number, request in enumerate(requests):
            rows = open_sequences(number, request)
            self._run(request, rows)
            yield number, [row.finish(self.version) for row in rows]

    @torch.no_grad()
    def _run(self, request: Request, rows: list[Row]) -> None:
        device = next(self.model.parameters()).device
        ids = torch.tensor([request.prompt_ids] * len(rows), device=device)
        cache = None
        with (
            deterministic(self.model),
            torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16),
        ):
            while not all(row.is_finished for row in rows):
                output = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
                cache = output.past_key_values
                live = [r for r, row in enumerate(rows) if not row.is_finished]
                draw_tokens(output.logits[live, -1].float(), [rows[r] for r in live])
                ids = torch.tensor([[row.token_ids[-1]] for row in rows], device=device)
