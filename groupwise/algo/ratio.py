"""The log-ratio x of the objective: which policy the ratio divides by (anchor), and over what it is pooled (level).

Shapes: N completions, T completion tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from groupwise.algo.axes import Anchor, Level
from groupwise.algo.objective import Objective
from groupwise.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Terms:
    """What a trust region sees; padding is 0 in every tensor, and only `logprob_NT` carries gradient."""

    logprob_NT: Tensor
    anchor_NT: Tensor
    token_log_ratio_NT: Tensor
    log_ratio_NT: Tensor
    """The token log-ratio pooled to the level of the objective."""
    advantage_NT: Tensor
    mask_NT: Tensor
    mismatch_NT: Tensor | None = None
    is_demo_N: Tensor | None = None


def make_terms(
    objective: Objective,
    logprob_NT: Tensor,
    mask_NT: Tensor,
    advantages: Tensor,
    *,
    old_logprob_NT: Tensor | None = None,
    rollout_logprob_NT: Tensor | None = None,
    mismatch_NT: Tensor | None = None,
    is_demo_N: Tensor | None = None,
) -> Terms:
    """Clean padding, broadcast the advantages (N or NT) and form the log-ratio; `mask_NT` is boolean."""
    logprob_NT = clean(logprob_NT, mask_NT)
    anchor_NT = _anchor(objective.anchor, logprob_NT, mask_NT, old_logprob_NT, rollout_logprob_NT)
    token_NT = logprob_NT - anchor_NT
    return Terms(
        logprob_NT=logprob_NT,
        anchor_NT=anchor_NT,
        token_log_ratio_NT=token_NT,
        log_ratio_NT=pool(objective.level, token_NT, mask_NT),
        advantage_NT=spread(advantages, mask_NT).to(logprob_NT.dtype),
        mask_NT=mask_NT,
        mismatch_NT=mismatch_NT,
        is_demo_N=is_demo_N,
    )


def clean(values_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """The values with 0 in padding, so that NaN there reaches neither value nor gradient."""
    return torch.where(mask_NT, values_NT, torch.zeros((), dtype=values_NT.dtype, device=values_NT.device))


def spread(advantages: Tensor, mask_NT: Tensor) -> Tensor:
    """Advantages of shape N or NT as detached NT, 0 in padding."""
    advantages = advantages.detach()
    per_token = advantages if advantages.dim() == 2 else advantages.unsqueeze(1).expand(mask_NT.shape)
    assert per_token.shape == mask_NT.shape, f"advantages {tuple(advantages.shape)} for mask {tuple(mask_NT.shape)}"
    return clean(per_token, mask_NT)


def row_sum(values_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Sum over the loss tokens of each row, kept as a column (N, 1)."""
    return clean(values_NT, mask_NT).sum(dim=1, keepdim=True)


def row_mean(values_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Mean over the loss tokens of each row as a column (N, 1); 0 for a row without tokens."""
    return row_sum(values_NT, mask_NT) / mask_NT.sum(dim=1, keepdim=True).clamp(min=1)


def pool(level: Level, token_log_ratio_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """The log-ratio at its level, broadcast over tokens.

    token: log r_it; seq_geo: log s_i, the row mean (GSPO, 2507.18071); seq_geo_token: the value of s_i with the
    gradient of the token alone (GSPO-token); seq_prod: log S_i, the row sum.
    """
    x_NT = token_log_ratio_NT
    if level == "token":
        return x_NT
    if level == "seq_prod":
        return row_sum(x_NT, mask_NT).expand_as(x_NT)
    mean_NT = row_mean(x_NT, mask_NT).expand_as(x_NT)
    return mean_NT if level == "seq_geo" else mean_NT.detach() + x_NT - x_NT.detach()


def _anchor(
    anchor: Anchor, logprob_NT: Tensor, mask_NT: Tensor, old_NT: Tensor | None, rollout_NT: Tensor | None
) -> Tensor:
    """Log-probs of the policy that the ratio divides by; without old log-probs that is the policy now."""
    if anchor == "rollout":
        if rollout_NT is None:
            raise ConfigError("objective: anchor rollout needs the log-probs of the engine (rollout_logprob_NT).")
        return clean(rollout_NT.detach(), mask_NT)
    if anchor == "old" and old_NT is not None:
        return clean(old_NT.detach(), mask_NT)
    return logprob_NT.detach()
