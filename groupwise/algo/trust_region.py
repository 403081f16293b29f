"""Trust regions: one function for each value of `Objective.trust_region`.

Each returns the loss of every token before weights and masks, and which tokens the region silenced. A is the
advantage, x the log-ratio at its level, r = exp(x); everything but the log-prob l is a constant. `docs/algorithm.md`
lists value, gradient and source side by side. Shapes: N completions, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, log, log1p
from typing import NamedTuple

import torch
from torch import Tensor

from groupwise.algo.axes import TrustRegion
from groupwise.algo.objective import Objective
from groupwise.algo.ratio import Terms, row_mean, row_sum


class Region(NamedTuple):
    """Loss of each token, and where the region made its gradient exactly 0: below and above."""

    loss_NT: Tensor
    low_NT: Tensor
    high_NT: Tensor


def reinforce(objective: Objective, t: Terms) -> Region:
    """-A l (Williams 1992)."""
    return _unbounded(-t.advantage_NT * t.logprob_NT)


def ratio(objective: Objective, t: Terms) -> Region:
    """-r A: importance sampling, no bound."""
    return _unbounded(-t.log_ratio_NT.exp() * t.advantage_NT)


def clip(objective: Objective, t: Terms) -> Region:
    """-min(min(r, delta) A, clip(r, 1 - eps_low, 1 + eps_high) A) (PPO 1707.06347; delta: 1912.09729, 2505.07291).

    For A > 0 that is r up to 1 + eps_high, for A < 0 r from 1 - eps_low to delta; bounding x, not r, keeps exp finite.
    """
    x, A = t.log_ratio_NT, t.advantage_NT
    floor = log1p(-objective.epsilon_low) if objective.epsilon_low < 1 else -inf
    ceiling = log1p(objective.epsilon_high)
    cap = inf if objective.delta is None else log(objective.delta)
    bounded = torch.where(A > 0, x.clamp(max=ceiling), x.clamp(min=floor, max=cap))
    low = (A < 0) & (x < floor)
    high = ((A > 0) & (x > ceiling)) | ((A < 0) & (x > cap))
    return Region(-bounded.exp() * A, low, high)


def weight_clip(objective: Objective, t: Terms) -> Region:
    """-sg[clip(r, weight_min, weight_max)] A l (CISPO 2506.13585, AIPO 2505.24034): no token loses its gradient."""
    weight = t.log_ratio_NT.detach().exp().clamp(objective.weight_min, objective.weight_max)
    return _unbounded(-weight * t.advantage_NT * t.logprob_NT)


def sapo(objective: Objective, t: Terms) -> Region:
    """-(4 / tau) sigmoid(tau (r - 1)) A, tau by the sign of A (SAPO 2511.20347); at r = 1 its value is -(2 / tau) A."""
    A = t.advantage_NT
    tau = torch.where(A > 0, torch.full_like(A, objective.tau_pos), torch.full_like(A, objective.tau_neg))
    # Beyond x = 20 the gate is flat to the last bit; the bound keeps exp finite.
    gate = torch.sigmoid(tau * (t.log_ratio_NT.clamp(max=20).exp() - 1))
    return _unbounded(-(4 / tau) * gate * A)


def geo_clip(objective: Objective, t: Terms) -> Region:
    """-exp(mean_t c_t) A, c_t the log-ratio clipped on one side (GMPO 2507.20673)."""
    x, A = t.token_log_ratio_NT, t.advantage_NT
    low, high = (A <= 0) & (x < -objective.epsilon_low), (A > 0) & (x > objective.epsilon_high)
    bounded = torch.where(A > 0, x.clamp(max=objective.epsilon_high), x.clamp(min=-objective.epsilon_low))
    return Region(-row_mean(bounded, t.mask_NT).exp() * A, low, high)


def gamma(objective: Objective, t: Terms) -> Region:
    """-sg[exp(lambda + k log W - lambda W)] A l, W the product of ratios and mismatch weights (VESPO 2602.10693)."""
    A = t.advantage_NT
    log_weight = t.token_log_ratio_NT.detach()
    if t.mismatch_NT is not None:
        log_weight = log_weight + t.mismatch_NT.log()
    log_weight = row_sum(log_weight, t.mask_NT).clamp(log(1e-8), 20)
    (k_pos, lambda_pos), (k_neg, lambda_neg) = objective.gamma_pos, objective.gamma_neg
    positive = torch.exp(lambda_pos + k_pos * log_weight - lambda_pos * log_weight.exp())
    negative = torch.exp(lambda_neg + k_neg * log_weight - lambda_neg * log_weight.exp())
    return _unbounded(-torch.where(A >= 0, positive, negative) * A * t.logprob_NT)


def div_mask(objective: Objective, t: Terms) -> Region:
    """-M sg[min(r, weight_cap)] A l, or -M r A without a cap; M drops tokens that move away beyond the divergence.

    Divergence of the two-outcome distributions (this token, any other): total variation |pi - mu|, or
    mu log(mu / pi) + (1 - mu) log((1 - mu) / (1 - pi)) (DPPO 2602.04879; uncapped: prime-rl).
    """
    x, A = t.log_ratio_NT, t.advantage_NT
    pi, mu = t.logprob_NT.detach().exp(), t.anchor_NT.exp()
    distance = (pi - mu).abs() if objective.divergence == "tv" else _binary_kl(mu, pi)
    low = (A < 0) & (pi < mu) & (distance > objective.divergence_low)
    high = (A > 0) & (pi > mu) & (distance > objective.divergence_high)
    if objective.weight_cap is None or objective.weight_cap == inf:
        loss = -x.exp() * A
    else:
        loss = -x.detach().exp().clamp(max=objective.weight_cap) * A * t.logprob_NT
    return _dropped(loss, low, high)


def abs_mask(objective: Objective, t: Terms) -> Region:
    """-1[|pi - mu| <= threshold] r A, whatever the sign of A (prime-rl "ipo")."""
    assert objective.threshold is not None
    moved = t.logprob_NT.detach().exp() - t.anchor_NT.exp()
    return _dropped(-t.log_ratio_NT.exp() * t.advantage_NT, moved < -objective.threshold, moved > objective.threshold)


def band_mask(objective: Objective, t: Terms) -> Region:
    """-1[band_low <= log r <= band_high] r A, whatever the sign of A (Kimi K2.5, 2602.02276)."""
    x = t.log_ratio_NT
    return _dropped(-x.exp() * t.advantage_NT, x < objective.band_low, x > objective.band_high)


def topr(objective: Objective, t: Terms) -> Region:
    """-A l for A >= 0, -sg[min(r, 1)] A l for A < 0 (TOPR 2503.14286)."""
    A = t.advantage_NT
    tapered = t.log_ratio_NT.detach().clamp(max=0).exp()
    return _unbounded(-torch.where(A >= 0, torch.ones_like(tapered), tapered) * A * t.logprob_NT)


def luffy(objective: Objective, t: Terms) -> Region:
    """Demonstration rows: -pi / (pi + shaping) A, unclipped; the policy's own rows: `clip` (LUFFY 2504.14945)."""
    own = clip(objective, t)
    if t.is_demo_N is None:
        return own
    is_demo = t.is_demo_N.to(torch.bool).unsqueeze(1)
    pi = t.logprob_NT.exp()
    shaped = -pi / (pi + objective.shaping) * t.advantage_NT
    return Region(torch.where(is_demo, shaped, own.loss_NT), own.low_NT & ~is_demo, own.high_NT & ~is_demo)


def squared(objective: Objective, t: Terms) -> Region:
    """(A - tau log S)^2 with S the sequence's product of ratios (Kimi K1.5 2501.12599, K2 2507.20534)."""
    log_product = row_sum(t.token_log_ratio_NT, t.mask_NT)
    return _unbounded((t.advantage_NT - objective.tau * log_product).square())


def dro(objective: Objective, t: Terms) -> Region:
    """-(A l - (tau / 2) log^2 r) (verl, tinker "dro")."""
    return _unbounded(-(t.advantage_NT * t.logprob_NT - objective.tau / 2 * t.log_ratio_NT.square()))


TRUST_REGIONS: dict[TrustRegion, Callable[[Objective, Terms], Region]] = {
    "reinforce": reinforce,
    "ratio": ratio,
    "clip": clip,
    "weight_clip": weight_clip,
    "sapo": sapo,
    "geo_clip": geo_clip,
    "gamma": gamma,
    "div_mask": div_mask,
    "abs_mask": abs_mask,
    "band_mask": band_mask,
    "m2_mask": ratio,  # its mask spans the step: masks.py
    "topr": topr,
    "luffy": luffy,
    "squared": squared,
    "dro": dro,
}


def apply(objective: Objective, terms: Terms) -> Region:
    """The loss of each token under the objective's trust region."""
    return TRUST_REGIONS[objective.trust_region](objective, terms)


def _unbounded(loss_NT: Tensor) -> Region:
    nowhere = torch.zeros_like(loss_NT, dtype=torch.bool)
    return Region(loss_NT, nowhere, nowhere)


def _dropped(loss_NT: Tensor, low_NT: Tensor, high_NT: Tensor) -> Region:
    return Region(torch.where(low_NT | high_NT, torch.zeros_like(loss_NT), loss_NT), low_NT, high_NT)


def _binary_kl(mu: Tensor, pi: Tensor) -> Tensor:
    """KL of (mu, 1 - mu) from (pi, 1 - pi); probabilities of 1 are held a rounding step below."""
    tiny = torch.finfo(mu.dtype).eps
    mu, pi = mu.clamp(tiny, 1 - tiny), pi.clamp(tiny, 1 - tiny)
    return mu * (mu / pi).log() + (1 - mu) * ((1 - mu) / (1 - pi)).log()
