"""Advantages from the rewards of a group: baseline, then scale.

A reward of NaN (or None in a list) is unscored: it stays out of every statistic and its advantage is 0. A group
whose scored rewards are equal up to rounding (rounding.py), or that has fewer than two, has no signal: against its own
group every advantage is exactly 0. Statistics are float64 whatever comes in.

Shapes: N completions, K reward functions, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from groupwise.algo.axes import Baseline, Combine, Scale
from groupwise.algo.estimators import BASELINES, SCALES, Inputs, estimate
from groupwise.algo.groups import Groups, as_numbers, batch_std
from groupwise.algo.objective import Objective
from groupwise.algo.process import reward_to_go, whiten_tokens
from groupwise.algo.ratio import clean
from groupwise.errors import ConfigError, did_you_mean


def advantages(
    rewards_N_or_NK: Tensor | Sequence[Any],
    group_N: Tensor | Sequence[int],
    baseline: Baseline = "group_mean",
    scale: Scale = "group_std",
    *,
    ddof: int = 1,
    eps: float = 1e-4,
    combine: Combine = "weighted_sum",
    weights_K: Tensor | Sequence[float] | None = None,
    lengths_N: Tensor | Sequence[int] | None = None,
    k: int | None = None,
    greedy_reward_N: Tensor | Sequence[float] | None = None,
    ema_start: float = 0.0,
    ema_decay: float = 0.95,
) -> Tensor:
    """(R - baseline) / scale for every completion: N, or NT (T the longest) for `token_whiten`.

    Several rewards are weighted and summed over the functions that returned one, or with `normalise_each` each is
    scaled on its own, then weighted, summed and z-scored over the step (GDPO 2601.05242). `lengths_N` is read by
    `length_weighted` and `token_whiten`, `k` by `passk`, `greedy_reward_N` by `greedy`, `ema_*` by `ema`.

    Raises:
        ConfigError: an unknown estimator, or one that lacks its input.
        RewardError: an infinite reward, or one above rounding.LARGEST in size.
    """
    _check_name("baseline", baseline, BASELINES)
    _check_name("scale", scale, (*SCALES, "token_whiten"))
    _check_name("combine", combine, ("weighted_sum", "normalise_each"))
    rewards, dtype = as_numbers(rewards_N_or_NK)
    lengths = None if lengths_N is None else torch.as_tensor(lengths_N, device=rewards.device).double()
    greedy = None if greedy_reward_N is None else as_numbers(greedy_reward_N)[0].to(rewards.device)

    def estimate_one(reward_N: Tensor) -> Tensor:
        groups = Groups(group_N, ~reward_N.isnan())
        known_N = torch.where(groups.scored_N, reward_N, torch.zeros_like(reward_N))
        inputs = Inputs(known_N, groups, ddof, eps, lengths, k, greedy, ema_start, ema_decay)
        return estimate(baseline, scale, inputs)

    if combine == "normalise_each":
        columns_NK = rewards if rewards.dim() == 2 else rewards.unsqueeze(1)
        weights = _weights(weights_K, columns_NK)
        return _normalise_each(estimate_one, columns_NK, group_N, weights, ddof, eps).to(dtype)
    return estimate_one(combine_rewards(rewards, weights_K)).to(dtype)


def objective_advantages(
    objective: Objective,
    rewards_N_or_NK: Tensor | Sequence[Any],
    group_N: Tensor | Sequence[int],
    *,
    weights_K: Tensor | Sequence[float] | None = None,
    lengths_N: Tensor | Sequence[int] | None = None,
    mask_NT: Tensor | None = None,
    old_logprob_NT: Tensor | None = None,
    ref_logprob_NT: Tensor | None = None,
    beta: float | None = None,
    greedy_reward_N: Tensor | Sequence[float] | None = None,
    ema_start: float = 0.0,
) -> Tensor:
    """`advantages` as the objective wants them, the KL in the reward included (which takes mask and both log-probs).

    N numbers, or NT (T the longest) for `token_whiten`, where the KL is a reward-to-go by token; else it is summed into
    the sequence's reward.

    Raises:
        ConfigError: an estimator, or the KL, lacks its input.
        RewardError: an infinite reward, or one above rounding.LARGEST in size.
    """
    beta = objective.beta if beta is None else beta
    numbers, dtype = as_numbers(rewards_N_or_NK)
    evaluate = partial(
        advantages,
        group_N=group_N,
        baseline=objective.baseline,
        ddof=objective.ddof,
        eps=objective.eps,
        lengths_N=(mask_NT > 0).sum(dim=1) if lengths_N is None and mask_NT is not None else lengths_N,
        k=objective.pass_k,
        greedy_reward_N=greedy_reward_N,
        ema_start=ema_start,
        ema_decay=objective.ema_decay,
    )
    gap_NT = None
    if objective.kl_in_reward != "none" and beta > 0:
        if mask_NT is None or old_logprob_NT is None or ref_logprob_NT is None:
            raise ConfigError("objective: kl_in_reward needs mask_NT, old_logprob_NT and ref_logprob_NT.")
        gap_NT = clean((old_logprob_NT - ref_logprob_NT).detach().double(), mask_NT > 0)
    if objective.has_token_advantages and mask_NT is not None:
        reward_N = combine_rewards(numbers, weights_K)
        centred_N = torch.where(reward_N.isnan(), reward_N, evaluate(reward_N, scale="none"))
        whitened_NT = _whiten_returns(objective, centred_N, mask_NT, gap_NT, beta).to(dtype)
        if not objective.is_group_relative:
            return whitened_NT
        has_signal_N1 = groups_with_signal(reward_N, group_N).to(mask_NT.device).unsqueeze(1)
        return torch.where(has_signal_N1, whitened_NT, torch.zeros_like(whitened_NT))
    if gap_NT is not None:
        reward_N = combine_rewards(numbers, weights_K).to(gap_NT.device) - beta * gap_NT.sum(dim=1)
        return evaluate(reward_N, scale=objective.scale).to(dtype)
    return evaluate(numbers, scale=objective.scale, combine=objective.combine, weights_K=weights_K).to(dtype)


def _whiten_returns(
    objective: Objective, centred_N: Tensor, mask_NT: Tensor, gap_NT: Tensor | None, beta: float
) -> Tensor:
    """Token returns (with the KL where there is a gap to the reference), whitened over the loss tokens of the step."""
    zeros_NT = torch.zeros(mask_NT.shape, dtype=torch.float64, device=mask_NT.device)
    returns_NT = reward_to_go(centred_N, zeros_NT if gap_NT is None else gap_NT, zeros_NT, mask_NT, beta)
    return whiten_tokens(returns_NT, mask_NT, ddof=objective.ddof, eps=objective.eps)


def combine_rewards(rewards: Tensor, weights_K: Tensor | Sequence[float] | None = None) -> Tensor:
    """The weighted sum over the functions that returned a reward; NaN where none did. N passes through (weighted)."""
    columns_NK = rewards if rewards.dim() == 2 else rewards.unsqueeze(1)
    total = (columns_NK * _weights(weights_K, columns_NK)).nansum(dim=1)
    return torch.where(columns_NK.isnan().all(dim=1), torch.full_like(total, float("nan")), total)


def moving_average(rewards_N: Tensor | Sequence[Any], start: float, decay: float = 0.95) -> float:
    """The `ema` baseline after these rewards, in row order; pass it as `ema_start` of the next step."""
    numbers, _ = as_numbers(rewards_N)
    for reward in numbers[~numbers.isnan()].tolist():
        start = decay * start + (1 - decay) * reward
    return start


def groups_with_signal(rewards_N: Tensor | Sequence[Any], group_N: Tensor | Sequence[int]) -> Tensor:
    """Whether each completion's group has two scored rewards that differ by more than rounding (boolean N)."""
    numbers, _ = as_numbers(rewards_N)
    return Groups(group_N, ~numbers.isnan()).has_signal(numbers)


def _weights(weights_K: Tensor | Sequence[float] | None, columns_NK: Tensor) -> Tensor:
    if weights_K is None:
        return torch.ones(columns_NK.shape[1], dtype=torch.float64, device=columns_NK.device)
    weights = torch.as_tensor(weights_K, dtype=torch.float64, device=columns_NK.device)
    if weights.shape != (columns_NK.shape[1],):
        raise ConfigError(f"{len(weights)} reward weights for {columns_NK.shape[1]} reward functions.")
    return weights


def _normalise_each(
    estimate: Callable[[Tensor], Tensor],
    columns_NK: Tensor,
    group_N: Tensor | Sequence[int],
    weights: Tensor,
    ddof: int,
    eps: float,
) -> Tensor:
    """sum_k w_k A_k, then (. - mean) / (std + eps) over the completions with a reward of any function (GDPO)."""
    scored_NK = ~columns_NK.isnan()
    each_NK = torch.stack([estimate(column_N) for column_N in columns_NK.unbind(1)], dim=1)
    total_N = (each_NK * weights).sum(dim=1)
    scored_N = scored_NK.any(dim=1)
    if not bool(scored_N.any()):
        return torch.zeros_like(total_N)
    has_signal_NK = [Groups(group_N, scored_NK[:, i]).has_signal(columns_NK[:, i]) for i in range(len(weights))]
    counted_N = scored_N & torch.stack(has_signal_NK).any(dim=0)
    std = batch_std(total_N[scored_N], ddof)
    scaled_N = (total_N - total_N[scored_N].mean()) / (std + eps)
    return torch.where(counted_N & (std > 0), scaled_N, torch.zeros_like(scaled_N))


def _check_name(field: str, value: str, known: Any) -> None:
    if value not in known:
        raise ConfigError(f'unknown {field} "{value}".{did_you_mean(value, known)} Known: {", ".join(known)}.')
