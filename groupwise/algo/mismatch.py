"""Weights for the gap between the engine that sampled (mu) and the learner's policy at the start of the step (pi_old).

rho_t = exp(old_logprob - rollout_logprob), detached. Shapes: N completions, T completion tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from groupwise.algo.objective import Objective
from groupwise.algo.ratio import clean, row_mean, row_sum


def mismatch_weights(objective: Objective, old_NT: Tensor, rollout_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """w of every token (1 in padding); `mask_NT` is boolean.

    token: rho_t; seq: its product over the sequence; geo: its geometric mean (Yao et al.; Liu and Li; 2510.18855).
    truncate: clip to [mismatch_min, mismatch_max]. mask: 0 outside, the weight itself inside, bounds included.
    seq_mask_tis: the gate is geometric, the weights inside it are rho_t as they are.
    """
    log_rho_NT = clean((old_NT - rollout_NT).detach(), mask_NT)
    level, _, operation = objective.mismatch.rpartition("_")
    if objective.mismatch == "seq_mask_tis":
        gate = row_mean(log_rho_NT, mask_NT).exp()
        weight_NT = torch.where(_inside(objective, gate), log_rho_NT.exp(), torch.zeros_like(log_rho_NT))
    else:
        pooled = {"token": _same, "seq": row_sum, "geo": row_mean}[level](log_rho_NT, mask_NT)
        rho_NT = pooled.exp().expand_as(log_rho_NT)
        weight_NT = _truncate(objective, rho_NT) if operation == "truncate" else _reject(objective, rho_NT)
    return torch.where(mask_NT, weight_NT, torch.ones_like(weight_NT))


def _same(values_NT: Tensor, mask_NT: Tensor) -> Tensor:
    return values_NT


def _truncate(objective: Objective, rho: Tensor) -> Tensor:
    if objective.mismatch_min is None and objective.mismatch_max is None:
        return rho
    return rho.clamp(objective.mismatch_min, objective.mismatch_max)


def _reject(objective: Objective, rho: Tensor) -> Tensor:
    return torch.where(_inside(objective, rho), rho, torch.zeros_like(rho))


def _inside(objective: Objective, rho: Tensor) -> Tensor:
    inside = torch.ones_like(rho, dtype=torch.bool)
    if objective.mismatch_min is not None:
        inside = inside & (rho >= objective.mismatch_min)
    if objective.mismatch_max is not None:
        inside = inside & (rho <= objective.mismatch_max)
    return inside
