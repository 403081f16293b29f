"""What changes the distribution besides temperature: kept sets (top-k, top-p, min-p) and the repetition penalty.

The learner scores the distribution that was sampled from: it renormalises over the set each draw chose among, and
penalises the tokens that stood before. Shapes: C completion tokens of all rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .packing import Rows


def restriction(rows: Rows, repetition_penalty: float, device: torch.device) -> Callable[[Tensor, int], Tensor] | None:
    """`adjust(logits, first)` for logits of the tokens from `first` on; None when nothing changes them."""
    kept = None
    if rows.kept_ids is not None and any(k is not None for k in rows.kept_ids):
        kept = [ids for row in rows.kept_ids for ids in (row or ())]
    if kept is None and repetition_penalty == 1.0:
        return None
    owner = [(n, t) for n, ids in enumerate(rows.token_ids) for t in range(len(ids))]

    def adjust(logits_CV: Tensor, first: int) -> Tensor:
        span = range(first, min(first + len(logits_CV), len(owner)))  # what follows is padding
        if repetition_penalty != 1.0:
            seen = torch.zeros_like(logits_CV, dtype=torch.bool)
            for i, c in enumerate(span):
                n, t = owner[c]
                seen[i, list(rows.prompt_ids[n] + rows.token_ids[n][:t])] = True
            logits_CV = penalise(logits_CV, seen, repetition_penalty)
        if kept is not None:
            keep = torch.zeros_like(logits_CV, dtype=torch.bool)
            for i, c in enumerate(span):
                keep[i, list(kept[c])] = True
            keep[len(span) :] = True
            logits_CV = logits_CV.masked_fill(~keep, float("-inf"))
        return logits_CV

    return adjust


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty (CTRL, 1909.05858): divides the logits of seen tokens where positive, else multiplies them."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
