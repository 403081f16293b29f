"""The slow twin: transformers' own forward pass with its own cache, for models without a fast path and for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..policy.network import deterministic
from ..types import Completion, Request
from .engine import Capabilities
from .sampler import sample
from .sequences import Sequence as Row
from .sequences import open_sequences


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
                self._sample(output.logits[:, -1].float(), rows)
                ids = torch.tensor([[row.token_ids[-1]] for row in rows], device=device)

    def _sample(self, logits_RV: Tensor, rows: list[Row]) -> None:
        live = [r for r, row in enumerate(rows) if not row.is_finished]
        sampling = rows[0].request.sampling
        logits = logits_RV[live]
        uniform = np.array([rows[r].next_uniform() for r in live]) if sampling.temperature > 0 else np.zeros(len(live))
        seen = None
        if sampling.repetition_penalty != 1.0:
            seen = torch.zeros_like(logits, dtype=torch.bool)
            for i, r in enumerate(live):
                seen[i, list(rows[r].request.prompt_ids) + rows[r].token_ids] = True
        drawn = sample(logits, sampling, uniform, seen)
        kept: Sequence[tuple[int, ...] | None] = drawn.kept_R or [None] * len(live)
        for r, token, logprob, k in zip(live, drawn.token_R, drawn.logprob_R, kept, strict=True):
            rows[r].append(token, logprob, k)
