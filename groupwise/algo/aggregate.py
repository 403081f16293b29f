"""The weight of every token in the loss, counted over the whole optimizer step before the first micro-batch.

Micro-batches are then summed, and cutting a step differently changes nothing. A token that a keep-mask silences still
counts. The tokens of a completion that is masked because it was truncated do not, and have weight 0; its row still
counts where sequences or groups are counted, as in TRL 1.16. Shapes: N completions, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from groupwise.algo import masks
from groupwise.algo.mismatch import mismatch_weights
from groupwise.algo.objective import Objective
from groupwise.algo.ratio import Terms, make_terms
from groupwise.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StepWeights:
    """Weights and masks of one optimizer step; `weights[rows]` is the part of a micro-batch."""

    weight_NT: Tensor
    """W: the loss is the sum of W times the token losses; 0 in padding and in truncated completions that are masked."""
    keep_NT: Tensor
    """k: False where the policy gradient is silenced (the KL term still acts there)."""
    mismatch_NT: Tensor | None = None
    """w, or None when it has to wait for the policy's log-probs (`policy_loss` then computes it)."""
    penalty_NT: Tensor | None = None
    """KL-Cov: the tokens that carry |log r|."""
    entropy_weight_NT: Tensor | None = None
    """1 / tokens of the step: the weights of the mean entropy."""

    def __getitem__(self, rows: Any) -> StepWeights:
        """The same rows of every field; any index that tensors take."""
        whole = {field.name: getattr(self, field.name) for field in fields(self)}
        part: dict[str, Any] = {name: None if values is None else values[rows] for name, values in whole.items()}
        return StepWeights(**part)


def step_weights(
    objective: Objective,
    mask_NT: Tensor,
    group_N: Tensor | Sequence[int] | None,
    advantages: Tensor,
    *,
    logprob_NT: Tensor | None = None,
    old_logprob_NT: Tensor | None = None,
    rollout_logprob_NT: Tensor | None = None,
    entropy_NT: Tensor | None = None,
    is_truncated_N: Tensor | Sequence[bool] | None = None,
    generator: torch.Generator | None = None,
) -> StepWeights:
    """Weights, masks and mismatch weights over all rows of one optimizer step.

    `logprob_NT` (the policy now) and `entropy_NT` come from a no-gradient pass and are needed when
    `objective.needs_forward`. What depends on one row alone and lacks its log-probs here is left to `policy_loss`.
    """
    is_loss_NT = mask_NT > 0
    if objective.mask_truncated and is_truncated_N is not None:
        is_loss_NT &= ~torch.as_tensor(is_truncated_N, dtype=torch.bool, device=mask_NT.device).unsqueeze(1)
    keep_NT = is_loss_NT.clone()
    if objective.top_entropy is not None:
        keep_NT &= masks.top_entropy_keep(objective.top_entropy, entropy_NT, is_loss_NT)
    penalty_NT = None
    if logprob_NT is not None:
        terms = make_terms(
            objective,
            logprob_NT.detach(),
            is_loss_NT,
            advantages,
            old_logprob_NT=old_logprob_NT,
            rollout_logprob_NT=rollout_logprob_NT,
        )
        off_policy_NT = masks.off_policy_keep(objective, terms, old_logprob_NT, rollout_logprob_NT)
        keep_NT = keep_NT if off_policy_NT is None else keep_NT & off_policy_NT
        keep_NT, penalty_NT = _step_masks(objective, terms, keep_NT, generator)
    elif objective.covariance is not None or objective.trust_region == "m2_mask":
        raise ConfigError("objective: this mask spans the step and needs the policy's current log-probs (logprob_NT).")
    return StepWeights(
        weight_NT=token_weights(objective, is_loss_NT, group_N),
        keep_NT=keep_NT,
        mismatch_NT=_mismatch(objective, is_loss_NT, old_logprob_NT, logprob_NT, rollout_logprob_NT),
        penalty_NT=penalty_NT,
        entropy_weight_NT=is_loss_NT.double() / is_loss_NT.sum().clamp(min=1),
    )


def token_weights(objective: Objective, mask_NT: Tensor, group_N: Tensor | Sequence[int] | None) -> Tensor:
    """W for each aggregation, with B sequences, P groups and |o_i| loss tokens; `mask_NT` is boolean; float64.

    seq_mean_token_mean 1 / (B |o_i|), token_mean 1 / sum |o|, prompt_mean 1 / (P sum_{i in p} |o_i|),
    constant 1 / (B max_length), seq_mean_token_sum 1 / B, token_sum 1. Sequences without tokens count in B, groups
    without tokens in P.
    """
    count_N1 = mask_NT.double().sum(dim=1, keepdim=True)
    num_sequences = max(len(mask_NT), 1)
    kind = objective.aggregation
    if kind == "seq_mean_token_mean":
        weight = 1 / (num_sequences * count_N1.clamp(min=1))
    elif kind == "token_mean":
        weight = 1 / count_N1.sum().clamp(min=1)
    elif kind == "prompt_mean":
        weight = _prompt_mean(count_N1, group_N)
    elif kind == "constant":
        if objective.max_length is None:
            raise ConfigError(
                "objective: aggregation constant divides by max_length; set it to the longest completion."
            )
        weight = torch.full_like(count_N1, 1 / (num_sequences * objective.max_length))
    elif kind == "seq_mean_token_sum":
        weight = torch.full_like(count_N1, 1 / num_sequences)
    else:
        weight = torch.ones_like(count_N1)
    return torch.where(mask_NT, weight, torch.zeros_like(weight))


def _prompt_mean(count_N1: Tensor, group_N: Tensor | Sequence[int] | None) -> Tensor:
    if group_N is None:
        raise ConfigError("objective: aggregation prompt_mean needs the group of every row (group_N).")
    groups, index_N = torch.unique(torch.as_tensor(group_N, device=count_N1.device), return_inverse=True)
    tokens_G1 = torch.zeros(len(groups), 1, dtype=count_N1.dtype, device=count_N1.device)
    tokens_G1 = tokens_G1.index_add(0, index_N, count_N1)
    return 1 / (len(groups) * tokens_G1[index_N].clamp(min=1))


def _mismatch(
    objective: Objective, mask_NT: Tensor, old_NT: Tensor | None, logprob_NT: Tensor | None, rollout_NT: Tensor | None
) -> Tensor | None:
    old_NT = logprob_NT if old_NT is None else old_NT
    if objective.mismatch == "none" or old_NT is None or rollout_NT is None:
        return None
    return mismatch_weights(objective, old_NT, rollout_NT, mask_NT)


def _step_masks(
    objective: Objective, terms: Terms, keep_NT: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor | None]:
    """The masks that rank the tokens of the whole step against each other: (keep, KL-Cov's tokens)."""
    if objective.trust_region == "m2_mask":
        assert objective.threshold is not None
        keep_NT = keep_NT & masks.m2_keep(objective.threshold, terms.token_log_ratio_NT, terms.mask_NT)
    if objective.covariance is None:
        return keep_NT, None
    chosen_NT = masks.covariance_tokens(objective, terms, generator)
    return (keep_NT & ~chosen_NT, None) if objective.covariance == "clip_cov" else (keep_NT, chosen_NT)
