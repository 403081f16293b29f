"""State of one completion while it is sampled, used by every engine of this process."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from groupwise.rollout.nonfinite_logits import NonFiniteLogitsError
from groupwise.rollout.sampler import sample, uniforms
from groupwise.rollout.stop_strings import ends_in_stop_string
from groupwise.types import Completion, Request, StopReason, TokenSet


@dataclass(slots=True)
class SequenceState:
    """Completion `index` of request `number`."""

    number: int
    index: int
    request: Request
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    kept: list[TokenSet] = field(default_factory=list)
    stop_reason: StopReason | None = None
    _uniforms: np.ndarray | None = None

    @property
    def is_finished(self) -> bool:
        return self.stop_reason is not None

    @property
    def uniforms(self) -> np.ndarray:
        """One for each token that it can have."""
        if self._uniforms is None:
            self._uniforms = uniforms(self.request.seed, self.index, self.request.limit)
        return self._uniforms

    def next_uniform(self) -> float:
        return float(self.uniforms[len(self.token_ids)])

    def append(self, token: int, logprob: float, kept: TokenSet | None) -> None:
        self.token_ids.append(token)
        self.logprobs.append(logprob)
        if kept is not None:
            self.kept.append(kept)
        sampling = self.request.sampling
        if token in sampling.stop_ids:
            self.stop_reason = "stop"
        elif sampling.stop and ends_in_stop_string(self.request, self.token_ids):
            self.stop_reason = "stop_string"
        elif len(self.token_ids) >= self.request.limit:
            self.stop_reason = "length"

    def finish(self, version: int) -> Completion:
        assert self.stop_reason is not None
        kept = tuple(self.kept) if self.kept else None
        return Completion(tuple(self.token_ids), tuple(self.logprobs), self.stop_reason, version, kept_ids=kept)


def new_sequences(number: int, request: Request) -> list[SequenceState]:
    return [SequenceState(number, request.first + i, request) for i in range(request.num_completions)]


def draw_tokens(logits_RV: Tensor, rows: list[SequenceState], kernels: torch.dtype | None = None) -> None:
    """Append one sampled token to every row. The rows sample alike; `logits_RV` may be overwritten.

    `kernels`: see `sample`.

    Raises:
        NonFiniteLogitsError: a row's logits are NaN or infinite, and so the log-prob of what was drawn.
    """
    sampling = rows[0].request.sampling
    uniform_R = np.array([row.next_uniform() for row in rows]) if sampling.temperature > 0 else np.zeros(len(rows))
    seen_RV = None
    if sampling.repetition_penalty != 1.0:
        seen_RV = torch.zeros_like(logits_RV, dtype=torch.bool)
        for r, row in enumerate(rows):
            seen_RV[r, list(row.request.prompt_ids) + row.token_ids] = True
    drawn = sample(logits_RV, sampling, uniform_R, seen_RV, kernels)
    for r, (row, token, logprob) in enumerate(zip(rows, drawn.token_R, drawn.logprob_R, strict=True)):
        if not math.isfinite(logprob):
            raise NonFiniteLogitsError(row.request, row.index, row.token_ids)
        row.append(token, logprob, drawn.kept_R[r] if drawn.kept_R is not None else None)
