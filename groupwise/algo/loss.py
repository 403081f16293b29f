"""The loss: advantage, ratio, trust region, weights and KL put together.

    L = sum_it W_it { k_it w_it Lpg(x_it, A_it, l_it) + beta KL_it } - c_H H

Only the policy's log-prob l (and its entropy) carries gradient; all else is a constant. Shapes: N completions,
T completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from groupwise.algo import masks, trust_region
from groupwise.algo.aggregate import StepWeights
from groupwise.algo.aggregate import step_weights as weigh_step
from groupwise.algo.kl_penalty import kl
from groupwise.algo.measure import measure
from groupwise.algo.mismatch import mismatch_weights
from groupwise.algo.objective import Objective
from groupwise.algo.ratio import Terms, clean, make_terms
from groupwise.algo.stats import Stats
from groupwise.errors import ConfigError


def policy_loss(
    objective: Objective,
    logprob_NT: Tensor,
    mask_NT: Tensor,
    advantages: Tensor,
    *,
    old_logprob_NT: Tensor | None = None,
    rollout_logprob_NT: Tensor | None = None,
    ref_logprob_NT: Tensor | None = None,
    entropy_NT: Tensor | None = None,
    group_N: Tensor | Sequence[int] | None = None,
    is_demo_N: Tensor | None = None,
    step_weights: StepWeights | None = None,
    beta: float | None = None,
    entropy_coef: float | None = None,
) -> tuple[Tensor, Stats]:
    """The loss to minimise over the rows given, and its measurements.

    Sum it over the micro-batches of an optimizer step, each with its rows of `step_weights`; without them the rows
    given are taken for the whole step (`token_mean` is then the widely copied `(loss * mask).sum() / mask.sum()`).
    `advantages` is N or NT; `old_logprob_NT` None means the policy now; without `rollout_logprob_NT` there is no
    mismatch to correct; `beta` and `entropy_coef` replace the objective's (adaptive coefficients).

    Raises:
        ConfigError: the objective needs log-probs, entropy, groups or a length that was not given.
    """
    beta = objective.beta if beta is None else beta
    entropy_coef = objective.entropy_coef if entropy_coef is None else entropy_coef
    is_loss_NT = mask_NT > 0
    _check(objective, advantages, ref_logprob_NT, entropy_NT, beta, entropy_coef)
    if step_weights is None:
        step_weights = weigh_step(
            objective,
            mask_NT,
            group_N,
            advantages,
            logprob_NT=logprob_NT,
            old_logprob_NT=old_logprob_NT,
            rollout_logprob_NT=rollout_logprob_NT,
            entropy_NT=entropy_NT,
        )
    is_loss_NT &= step_weights.weight_NT > 0  # a masked truncated completion is padding to every term
    mismatch_NT = _mismatch(objective, step_weights, logprob_NT, old_logprob_NT, rollout_logprob_NT, is_loss_NT)
    terms = make_terms(
        objective,
        logprob_NT,
        is_loss_NT,
        advantages,
        old_logprob_NT=old_logprob_NT,
        rollout_logprob_NT=rollout_logprob_NT,
        mismatch_NT=mismatch_NT,
        is_demo_N=is_demo_N,
    )
    region = trust_region.apply(objective, terms)
    weight_NT = step_weights.weight_NT.to(logprob_NT.dtype)
    keep_NT = _keep(objective, step_weights, terms, old_logprob_NT, rollout_logprob_NT)
    policy_NT = _policy_term(objective, region.loss_NT, keep_NT, step_weights.penalty_NT, terms)
    loss_parts = {"policy_loss": (weight_NT * clean(policy_NT, is_loss_NT)).sum()}
    if ref_logprob_NT is not None and objective.kl != "none" and beta > 0:
        ref_NT = clean(ref_logprob_NT.detach(), is_loss_NT)
        kl_NT = kl(terms.logprob_NT, ref_NT, objective.kl, old_logprob=terms.anchor_NT)
        loss_parts["kl_loss"] = beta * (weight_NT * clean(kl_NT, is_loss_NT)).sum()
    if entropy_coef and entropy_NT is not None:
        loss_parts["entropy_loss"] = -entropy_coef * _mean_entropy(entropy_NT, is_loss_NT, step_weights)
    loss = torch.stack(tuple(loss_parts.values())).sum()
    stats = measure(
        terms,
        region,
        {"loss": loss, **loss_parts},
        old_logprob_NT=old_logprob_NT,
        rollout_logprob_NT=rollout_logprob_NT,
        ref_logprob_NT=ref_logprob_NT,
        entropy_NT=entropy_NT,
        masked_NT=(mask_NT > 0) & ~keep_NT,
        sampled_NT=mask_NT > 0,
        largest_weight=objective.mismatch_max,
    )
    return loss, stats


def _check(
    objective: Objective,
    advantages: Tensor,
    ref_NT: Tensor | None,
    entropy_NT: Tensor | None,
    beta: float,
    entropy_coef: float,
) -> None:
    if objective.kl != "none" and beta > 0 and ref_NT is None:
        raise ConfigError(f"objective: beta {beta} needs the reference's log-probs (ref_logprob_NT); or set beta 0.")
    if entropy_coef and entropy_NT is None:
        raise ConfigError(f"objective: entropy_coef {entropy_coef} needs the entropy of every token (entropy_NT).")
    pools = objective.level in ("seq_geo", "seq_prod") or objective.trust_region in ("geo_clip", "squared", "gamma")
    if advantages.dim() == 2 and pools:
        raise ConfigError(
            f"objective: level {objective.level} with trust_region {objective.trust_region} takes one advantage a "
            "sequence; advantages by token need level token or seq_geo_token."
        )


def _mismatch(
    objective: Objective,
    weights: StepWeights,
    logprob_NT: Tensor,
    old_NT: Tensor | None,
    rollout_NT: Tensor | None,
    mask_NT: Tensor,
) -> Tensor | None:
    """w from the step, or from these rows when the step did not have the log-probs."""
    if objective.mismatch == "none" or rollout_NT is None:
        return None
    if weights.mismatch_NT is not None:
        return weights.mismatch_NT.to(logprob_NT.dtype)
    return mismatch_weights(objective, logprob_NT.detach() if old_NT is None else old_NT, rollout_NT, mask_NT)


def _keep(
    objective: Objective, weights: StepWeights, terms: Terms, old_NT: Tensor | None, rollout_NT: Tensor | None
) -> Tensor:
    off_policy_NT = masks.off_policy_keep(objective, terms, old_NT, rollout_NT)
    return weights.keep_NT if off_policy_NT is None else weights.keep_NT & off_policy_NT


def _policy_term(
    objective: Objective, loss_NT: Tensor, keep_NT: Tensor, penalty_NT: Tensor | None, terms: Terms
) -> Tensor:
    """k w Lpg plus the penalties on the log-ratio, which neither k nor w touches."""
    if terms.mismatch_NT is not None and objective.trust_region != "gamma":
        loss_NT = terms.mismatch_NT * loss_NT
    loss_NT = clean(loss_NT, keep_NT)
    x_NT = terms.token_log_ratio_NT
    if objective.log_ratio_penalty:
        loss_NT = loss_NT + objective.log_ratio_penalty * x_NT.square()
    if penalty_NT is not None:
        loss_NT = loss_NT + objective.covariance_coef * clean(x_NT.abs(), penalty_NT)
    return loss_NT


def _mean_entropy(entropy_NT: Tensor, mask_NT: Tensor, weights: StepWeights) -> Tensor:
    """Mean over the loss tokens of the step; its gradient flows."""
    assert weights.entropy_weight_NT is not None
    return (weights.entropy_weight_NT.to(entropy_NT.dtype) * clean(entropy_NT, mask_NT)).sum()
