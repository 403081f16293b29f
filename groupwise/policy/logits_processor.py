"""Changes of the logits besides temperature: kept sets (top-k, top-p, min-p) and the repetition penalty.

The learner scores the distribution that was sampled from: it renormalises over the set each draw chose among, and
penalises the tokens that stood before. Shapes: C sampled tokens of all rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from groupwise.policy.packing import CompletionRows
from groupwise.types import TokenSet


def logits_processor(
    rows: CompletionRows, repetition_penalty: float, device: torch.device
) -> Callable[[Tensor, int], Tensor] | None:
    """`adjust(logits, first)` for logits of the tokens from `first` on; None when nothing changes them."""
    kept: list[TokenSet | None] | None = None
    if rows.kept_ids is not None and any(k is not None for k in rows.kept_ids):
        kept = []
        for row, sets in enumerate(rows.kept_ids):
            kept += [None if sets is None else sets[place] for place in rows.predicted(row)]
    if kept is None and repetition_penalty == 1.0:
        return None
    owner = [(n, t) for n in range(len(rows)) for t in rows.predicted(n)]

    def adjust(logits_CV: Tensor, first: int) -> Tensor:
        span = range(first, min(first + len(logits_CV), len(owner)))  # what follows is padding
        if repetition_penalty != 1.0:
            seen = torch.zeros_like(logits_CV, dtype=torch.bool)
            for i, c in enumerate(span):
                n, t = owner[c]
                seen[i, list(rows.prompt_ids[n] + rows.token_ids[n][:t])] = True
            logits_CV = apply_repetition_penalty(logits_CV, seen, repetition_penalty)
        if kept is not None:
            sets = [*kept[first : span.stop], *[None] * (len(logits_CV) - len(span))]
            logits_CV = logits_CV.masked_fill(_excluded(sets, logits_CV.shape[1]).to(device), float("-inf"))
        return logits_CV

    return adjust


def _excluded(sets: Sequence[TokenSet | None], vocabulary: int) -> Tensor:
    """True where a token does not belong to its row's set, one row a set; nothing is left out of None."""
    keep_CV = torch.zeros(len(sets), vocabulary, dtype=torch.bool)
    forms: dict[bool | None, list[int]] = {}
    for row, kept in enumerate(sets):
        forms.setdefault(None if kept is None else kept.is_mask, []).append(row)
    if whole := forms.get(None):
        keep_CV[whole] = True
    if masks := forms.get(True):
        bytes_MB = _read(sets, masks, torch.uint8).view(len(masks), -1)
        bits_MB8 = bytes_MB[:, :, None] >> torch.arange(8, dtype=torch.uint8) & 1
        keep_CV[masks] = bits_MB8.bool().flatten(1)[:, :vocabulary]
    if lists := forms.get(False):
        sizes = torch.tensor([len(sets[row] or ()) for row in lists])
        keep_CV[torch.tensor(lists).repeat_interleave(sizes), _read(sets, lists, torch.int32)] = True
    return ~keep_CV


def _read(sets: Sequence[TokenSet | None], rows: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The data of these rows' sets, one after another."""
    return torch.frombuffer(bytearray().join(kept.data for row in rows if (kept := sets[row])), dtype=dtype)


def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Repetition penalty (CTRL, 1909.05858): divides the logits of seen tokens where positive, else multiplies them."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
