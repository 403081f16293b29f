"""Masks of the policy gradient: which tokens keep theirs. A masked token stays in every denominator.

Shapes: N completions, T completion tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from groupwise.algo import trust_region
from groupwise.algo.objective import Objective
from groupwise.algo.ratio import Terms, clean, row_mean
from groupwise.errors import ConfigError


def off_policy_keep(
    objective: Objective, terms: Terms, old_NT: Tensor | None, rollout_NT: Tensor | None
) -> Tensor | None:
    """Drops a sequence with A < 0 and mean_t log(pi_sampled / pi) above the threshold (DeepSeek-V3.2, 2512.02556).

    pi_sampled is the engine's when it is known, else the policy at the start of the step.
    """
    sampled_NT = old_NT if rollout_NT is None else rollout_NT
    if objective.off_policy_threshold is None or sampled_NT is None:
        return None
    gap_NT = clean(sampled_NT, terms.mask_NT).detach() - terms.logprob_NT.detach()
    is_far = row_mean(gap_NT, terms.mask_NT) > objective.off_policy_threshold
    return ~(is_far & (terms.advantage_NT < 0))


def top_entropy_keep(fraction: float, entropy_NT: Tensor | None, mask_NT: Tensor) -> Tensor:
    """Keeps tokens whose entropy reaches the (1 - fraction) quantile of the step (80/20 rule, 2506.01939)."""
    if entropy_NT is None:
        raise ConfigError("objective: top_entropy needs the entropy of every token (entropy_NT).")
    entropy_NT = entropy_NT.detach()
    return entropy_NT >= _quantile(entropy_NT[mask_NT], 1 - fraction)


def m2_keep(threshold: float, log_ratio_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Drops the largest (log r)^2 of the step until the mean of the rest is below the threshold (M2PO, 2510.01161)."""
    squares = log_ratio_NT.detach().square()[mask_NT].double()
    ordered, order = squares.sort(stable=True)
    counts = torch.arange(1, len(ordered) + 1, device=ordered.device)
    num_kept = int((ordered.cumsum(0) / counts < threshold).sum())
    kept = torch.zeros_like(squares, dtype=torch.bool)
    kept[order[:num_kept]] = True
    return torch.zeros_like(mask_NT).masked_scatter(mask_NT, kept)


def covariance_tokens(objective: Objective, terms: Terms, generator: torch.Generator | None) -> Tensor:
    """The tokens that Clip-Cov silences or KL-Cov penalises (2505.22617), as a boolean NT.

    cov_t = (A_t - mean A)(l_t - mean l) over the loss tokens of the step. Of n tokens int(fraction n) are chosen:
    Clip-Cov draws among those with covariance_low < cov < covariance_high that the clip left alone; KL-Cov takes the
    largest.
    """
    mask_NT = terms.mask_NT
    advantage, logprob = terms.advantage_NT[mask_NT].double(), terms.logprob_NT.detach()[mask_NT].double()
    covariance = (advantage - advantage.mean()) * (logprob - logprob.mean())
    count = int(objective.covariance_fraction * len(covariance))
    if objective.covariance == "kl_cov":
        picked = covariance.argsort(descending=True, stable=True)[:count]
    else:
        region = trust_region.apply(objective, terms)
        is_clipped = (region.low_NT | region.high_NT)[mask_NT]
        in_band = (covariance > objective.covariance_low) & (covariance < objective.covariance_high)
        candidates = (in_band & ~is_clipped).nonzero().squeeze(1).cpu()
        shuffled = candidates[torch.randperm(len(candidates), generator=generator)]
        picked = shuffled[:count].to(covariance.device)
    chosen = torch.zeros_like(covariance, dtype=torch.bool)
    chosen[picked] = True
    return torch.zeros_like(mask_NT).masked_scatter(mask_NT, chosen)


def _quantile(values: Tensor, q: float) -> Tensor:
    """Linearly interpolated quantile, without the size limit of `torch.quantile`."""
    if len(values) == 0:
        return torch.zeros((), dtype=values.dtype, device=values.device)
    ordered = values.sort().values
    position = q * (len(ordered) - 1)
    below = min(int(position), len(ordered) - 1)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], position - below)
