"""Metrics of the loss. Every mean is over loss tokens; `docs/metrics.md` explains every name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from groupwise.algo.kl_penalty import kl
from groupwise.algo.ratio import Terms, clean
from groupwise.algo.stats import EffectiveShare, Max, Mean, Min, Stats, Sum
from groupwise.algo.trust_region import Region


@torch.no_grad()
def measure(
    terms: Terms,
    region: Region,
    loss_parts: Mapping[str, Tensor],
    *,
    old_logprob_NT: Tensor | None,
    rollout_logprob_NT: Tensor | None,
    ref_logprob_NT: Tensor | None,
    entropy_NT: Tensor | None,
    masked_NT: Tensor,
    sampled_NT: Tensor,
    largest_weight: float | None = None,
) -> Stats:
    """Mergeable measurements of one micro-batch; None where the log-probs it takes were not given.

    `masked_NT` are the tokens that a mask silences, of all that were sampled (`sampled_NT`); everything else is
    measured on the loss tokens.
    """
    mask_NT, logprob_NT = terms.mask_NT, terms.logprob_NT.detach()
    count = mask_NT.sum()
    stats = Stats({name: Sum(part.detach()) for name, part in loss_parts.items()})
    stats["clip_ratio/low_mean"] = _mean(region.low_NT, mask_NT, count)
    stats["clip_ratio/high_mean"] = _mean(region.high_NT, mask_NT, count)
    stats["clip_ratio/region_mean"] = _mean(region.low_NT | region.high_NT, mask_NT, count)
    stats["clip_ratio/low_min"] = Min(_share_of_rows(region.low_NT, mask_NT, float("inf")).min())
    stats["clip_ratio/high_max"] = Max(_share_of_rows(region.high_NT, mask_NT, 0.0).max())
    stats["masked_ratio"] = _mean(masked_NT, sampled_NT, sampled_NT.sum())
    stats["ratio/max"] = _max(terms.log_ratio_NT.exp(), mask_NT)
    stats["entropy"] = None if entropy_NT is None else _mean(entropy_NT, mask_NT, count)
    d_NT = None if ref_logprob_NT is None else clean(ref_logprob_NT, mask_NT)
    stats["kl"] = None if d_NT is None else _mean(kl(logprob_NT, d_NT, "k3"), mask_NT, count)
    stats["kl/k1"] = None if d_NT is None else _mean(logprob_NT - d_NT, mask_NT, count)
    old_NT = logprob_NT if old_logprob_NT is None else clean(old_logprob_NT, mask_NT)
    stats.update(_mismatch(old_NT, rollout_logprob_NT, terms.mismatch_NT, mask_NT, count, largest_weight))
    return stats


_MISMATCH_NAMES = (
    "sampling/mismatch",
    "sampling/sampling_logp_difference/mean",
    "sampling/sampling_logp_difference/max",
    "sampling/kl",
    "sampling/effective_share",
    "sampling/importance_sampling_ratio/min",
    "sampling/importance_sampling_ratio/mean",
    "sampling/importance_sampling_ratio/max",
    "sampling/importance_sampling_ratio/clipped",
)


def _is_at_bound(weight_NT: Tensor, largest: float | None) -> Tensor:
    """Whether the correction cut a token's weight: to 0, or to the largest allowed."""
    is_masked_NT = weight_NT == 0
    return is_masked_NT if largest is None else is_masked_NT | (weight_NT >= largest * (1 - 1e-6))


def _mismatch(
    old_NT: Tensor,
    rollout_NT: Tensor | None,
    weight_NT: Tensor | None,
    mask_NT: Tensor,
    count: Tensor,
    largest: float | None,
) -> Stats:
    """How far the engine that sampled is from the learner: |d log p|, exp of it, KL, effective sample share."""
    if rollout_NT is None:
        return Stats(dict.fromkeys(_MISMATCH_NAMES))
    gap_NT = old_NT - clean(rollout_NT, mask_NT)
    rho = clean(gap_NT.exp(), mask_NT)
    values = (
        _mean(gap_NT.abs().exp(), mask_NT, count),
        _mean(gap_NT.abs(), mask_NT, count),
        _max(gap_NT.abs(), mask_NT),
        _mean(torch.expm1(gap_NT) - gap_NT, mask_NT, count),
        EffectiveShare(rho.double().sum(), rho.double().square().sum(), count),
        None if weight_NT is None else _min(weight_NT, mask_NT),
        None if weight_NT is None else _mean(weight_NT, mask_NT, count),
        None if weight_NT is None else _max(weight_NT, mask_NT),
        None if weight_NT is None else _mean(_is_at_bound(weight_NT, largest), mask_NT, count),
    )
    return Stats(dict(zip(_MISMATCH_NAMES, values, strict=True)))


def _mean(values_NT: Tensor, mask_NT: Tensor, count: Tensor) -> Mean:
    return Mean(clean(values_NT.double(), mask_NT).sum(), count)


def _share_of_rows(is_clipped_NT: Tensor, mask_NT: Tensor, without_tokens: float) -> Tensor:
    """Share of clipped tokens in each row, N; `without_tokens` where a row has none. One more such row for no rows."""
    count_N = mask_NT.sum(1)
    share_N = (is_clipped_NT & mask_NT.bool()).sum(1) / count_N.clamp(min=1)
    share_N = share_N.masked_fill(count_N == 0, without_tokens)
    return torch.cat([share_N, share_N.new_full((1,), without_tokens)])


def _min(values_NT: Tensor, mask_NT: Tensor) -> Min:
    """Smallest value; infinite for no tokens."""
    masked = values_NT.masked_fill(~mask_NT.bool(), float("inf"))
    return Min(masked.min() if masked.numel() else masked.new_full((), float("inf")))


def _max(values_NT: Tensor, mask_NT: Tensor) -> Max:
    """Largest of values that are at least 0; 0 for no tokens."""
    masked = clean(values_NT, mask_NT)
    return Max(masked.max() if masked.numel() else masked.new_zeros(()))
