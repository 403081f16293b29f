"""What a group makes of its rewards: baseline, then scale.

A reward of NaN (or None in a list) was not judged: it stays out of every statistic and its advantage is 0. A group
whose judged rewards are all equal, or that has fewer than two, has no signal: against its own group every advantage is
exactly 0. Statistics are float64 whatever comes in. Shapes: N completions, K reward functions, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import comb, sqrt
from typing import Any

import torch
from torch import Tensor

from groupwise.algo.groups import Groups, as_numbers, batch_std
from groupwise.algo.objective import Baseline, Combine, Objective, Scale
from groupwise.algo.process import reward_to_go, whiten_tokens
from groupwise.algo.ratio import clean
from groupwise.algo.rules import GROUP_BASELINES
from groupwise.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class _Inputs:
    """One reward a completion (float64, 0 where not judged) and what the rarer estimators read."""

    reward_N: Tensor
    groups: Groups
    ddof: int
    eps: float
    lengths_N: Tensor | None
    k: int | None
    greedy_N: Tensor | None
    ema_start: float
    ema_decay: float

    @property
    def judged(self) -> Tensor:
        """The judged rewards of the step, without the others."""
        return self.reward_N[self.groups.judged_N]


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

    Several rewards are weighted and summed over those that judged, or with `normalise_each` each is scaled on its own,
    then weighted, summed and z-scored over the step (GDPO 2601.05242). `lengths_N` is read by `length_weighted` and
    `token_whiten`, `k` by `passk`, `greedy_reward_N` by `greedy`, `ema_*` by `ema`.

    Raises:
        ConfigError: an unknown estimator, or one that lacks its input.
        RewardError: an infinite reward.
    """
    _check_name("baseline", baseline, _BASELINES)
    _check_name("scale", scale, (*_SCALES, "token_whiten"))
    _check_name("combine", combine, ("weighted_sum", "normalise_each"))
    rewards, dtype = as_numbers(rewards_N_or_NK)
    lengths = None if lengths_N is None else torch.as_tensor(lengths_N, device=rewards.device).double()
    greedy = None if greedy_reward_N is None else as_numbers(greedy_reward_N)[0].to(rewards.device)

    def estimate(reward_N: Tensor) -> Tensor:
        groups = Groups(group_N, ~reward_N.isnan())
        known_N = torch.where(groups.judged_N, reward_N, torch.zeros_like(reward_N))
        inputs = _Inputs(known_N, groups, ddof, eps, lengths, k, greedy, ema_start, ema_decay)
        return _estimate(baseline, scale, inputs)

    if combine == "normalise_each":
        columns_NK = rewards if rewards.dim() == 2 else rewards.unsqueeze(1)
        weights = _weights(weights_K, columns_NK)
        return _normalise_each(estimate, columns_NK, group_N, weights, ddof, eps).to(dtype)
    return estimate(combine_rewards(rewards, weights_K)).to(dtype)


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

    With `token_whiten` the KL is a reward-to-go by token, else it is summed into the sequence's reward.
    """
    beta = objective.beta if beta is None else beta
    numbers, dtype = as_numbers(rewards_N_or_NK)
    estimate = partial(
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
        centred_N = torch.where(reward_N.isnan(), reward_N, estimate(reward_N, scale="none"))
        return _whiten_returns(objective, centred_N, group_N, mask_NT, gap_NT, beta).to(dtype)
    if gap_NT is not None:
        reward_N = combine_rewards(numbers, weights_K).to(gap_NT.device) - beta * gap_NT.sum(dim=1)
        return estimate(reward_N, scale=objective.scale).to(dtype)
    return estimate(numbers, scale=objective.scale, combine=objective.combine, weights_K=weights_K).to(dtype)


def _whiten_returns(
    objective: Objective,
    centred_N: Tensor,
    group_N: Tensor | Sequence[int],
    mask_NT: Tensor,
    gap_NT: Tensor | None,
    beta: float,
) -> Tensor:
    """Token returns (with the KL where there is a gap to the reference), whitened over the loss tokens of the step."""
    zeros_NT = torch.zeros(mask_NT.shape, dtype=torch.float64, device=mask_NT.device)
    returns_NT = reward_to_go(centred_N, zeros_NT if gap_NT is None else gap_NT, zeros_NT, mask_NT, beta)
    whitened_NT = whiten_tokens(returns_NT, mask_NT, ddof=objective.ddof, eps=objective.eps)
    if not objective.is_group_relative:
        return whitened_NT
    has_signal_N1 = groups_with_signal(centred_N, group_N).to(mask_NT.device).unsqueeze(1)
    return torch.where(has_signal_N1, whitened_NT, torch.zeros_like(whitened_NT))


def combine_rewards(rewards: Tensor, weights_K: Tensor | Sequence[float] | None = None) -> Tensor:
    """The weighted sum over the functions that judged; NaN where none did. N passes through (weighted)."""
    columns_NK = rewards if rewards.dim() == 2 else rewards.unsqueeze(1)
    total = (columns_NK * _weights(weights_K, columns_NK)).nansum(dim=1)
    return torch.where(columns_NK.isnan().all(dim=1), torch.full_like(total, float("nan")), total)


def groups_with_signal(rewards_N: Tensor | Sequence[Any], group_N: Tensor | Sequence[int]) -> Tensor:
    """Whether each completion's group has two judged rewards that differ (boolean N)."""
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
    """sum_k w_k A_k, then (. - mean) / (std + eps) over the completions that any function judged (GDPO)."""
    judged_NK = ~columns_NK.isnan()
    each_NK = torch.stack([estimate(column_N) for column_N in columns_NK.unbind(1)], dim=1)
    total_N = (each_NK * weights).sum(dim=1)
    judged_N = judged_NK.any(dim=1)
    if not bool(judged_N.any()):
        return torch.zeros_like(total_N)
    has_signal_NK = [Groups(group_N, judged_NK[:, i]).has_signal(columns_NK[:, i]) for i in range(len(weights))]
    counted_N = judged_N & torch.stack(has_signal_NK).any(dim=0)
    scaled_N = (total_N - total_N[judged_N].mean()) / (batch_std(total_N[judged_N], ddof) + eps)
    return torch.where(counted_N, scaled_N, torch.zeros_like(scaled_N))


def _estimate(baseline: Baseline, scale: Scale, inputs: _Inputs) -> Tensor:
    if (baseline == "passk") != (scale == "passk_std") and (baseline, scale) != ("passk", "none"):
        raise ConfigError(f"baseline {baseline} with scale {scale}: passk goes with passk_std or none.")
    centred_N = _BASELINES[baseline](inputs)
    counted_N = inputs.groups.judged_N
    if baseline in GROUP_BASELINES or scale == "group_std":
        counted_N = counted_N & inputs.groups.has_signal(inputs.reward_N)
    is_centred = baseline in GROUP_BASELINES
    centred_N = torch.where(counted_N if is_centred else inputs.groups.judged_N, centred_N, torch.zeros_like(centred_N))
    if scale == "token_whiten":
        return _whiten(centred_N, counted_N, inputs)
    scaled_N = _SCALES[scale](centred_N, inputs)
    return torch.where(counted_N, scaled_N, torch.zeros_like(scaled_N))


def _whiten(centred_N: Tensor, counted_N: Tensor, inputs: _Inputs) -> Tensor:
    """The advantage of each completion on each of its tokens, whitened over all tokens of the step."""
    lengths_N = _required(inputs.lengths_N, "scale token_whiten", "lengths_N")
    positions_T = torch.arange(int(lengths_N.max()) if len(lengths_N) else 0, device=centred_N.device)
    mask_NT = positions_T < lengths_N.unsqueeze(1)
    values_NT = centred_N.unsqueeze(1).expand(mask_NT.shape)
    whitened_NT = whiten_tokens(
        values_NT, mask_NT & inputs.groups.judged_N.unsqueeze(1), ddof=inputs.ddof, eps=inputs.eps
    )
    return torch.where(counted_N.unsqueeze(1), whitened_NT, torch.zeros_like(whitened_NT))


def _no_baseline(inputs: _Inputs) -> Tensor:
    return inputs.reward_N


def _group_mean(inputs: _Inputs) -> Tensor:
    """R - mean over the group (DeepSeekMath 2402.03300; without a scale Dr. GRPO 2503.20783)."""
    return inputs.reward_N - inputs.groups.mean(inputs.reward_N)


def _group_loo(inputs: _Inputs) -> Tensor:
    """R - mean of the others = G / (G - 1) (R - mean) (RLOO 2402.14740)."""
    count_N = inputs.groups.count_N
    return _group_mean(inputs) * count_N / (count_N - 1).clamp(min=1)


def _batch_mean(inputs: _Inputs) -> Tensor:
    """R - mean over the step."""
    judged = inputs.judged
    if len(judged) == 0 or bool((judged == judged[0]).all()):
        return torch.zeros_like(inputs.reward_N)
    return inputs.reward_N - judged.mean()


def _length_weighted(inputs: _Inputs) -> Tensor:
    """R - sum |o| R / sum |o| over the group (OPO 2505.23585)."""
    lengths_N = _required(inputs.lengths_N, "baseline length_weighted", "lengths_N")
    total_N = inputs.groups.sum(lengths_N)
    weighted_N = inputs.groups.sum(lengths_N * inputs.reward_N) / total_N.clamp(min=1e-12)
    return inputs.reward_N - torch.where(total_N > 0, weighted_N, inputs.groups.mean(inputs.reward_N))


def _ema(inputs: _Inputs) -> Tensor:
    """R - b with b <- decay b + (1 - decay) R after each judged completion, in row order (RAE 2506.24119)."""
    centred_N, average = inputs.reward_N.clone(), inputs.ema_start
    for row in inputs.groups.judged_N.nonzero().squeeze(1).tolist():
        reward = float(inputs.reward_N[row])
        centred_N[row] = reward - average
        average = inputs.ema_decay * average + (1 - inputs.ema_decay) * reward
    return centred_N


def _greedy(inputs: _Inputs) -> Tensor:
    """R - the reward of the greedy completion of the same prompt (ReMax 2310.10505)."""
    return inputs.reward_N - _required(inputs.greedy_N, "baseline greedy", "greedy_reward_N")


def _best_minus_second(inputs: _Inputs) -> Tensor:
    """The best completion of a group gets its margin over the second best, the others 0 (2503.19595)."""
    margin_N = torch.zeros_like(inputs.reward_N)
    for rows in inputs.groups.rows():
        if len(rows) >= 2:
            ordered, order = inputs.reward_N[rows].sort(descending=True, stable=True)
            margin_N[rows[order[0]]] = ordered[0] - ordered[1]
    return margin_N


def _passk(inputs: _Inputs) -> Tensor:
    """Right ones get 1 - P, wrong ones 1 - P - C(w - 1, k - 1) / C(n - 1, k - 1) (pass@k training, 2508.10751).

    Of n completions w are wrong (reward <= 0) and P = 1 - C(w, k) / C(n, k) is the pass@k of the group.
    """
    centred_N = torch.zeros_like(inputs.reward_N)
    for rows in inputs.groups.rows():
        num_wrong, rate = _pass_rate(inputs, rows)
        if rate is None or num_wrong in (0, len(rows)):
            continue
        k = _pass_k(inputs)
        wrong_share = comb(num_wrong - 1, k - 1) / comb(len(rows) - 1, k - 1)
        centred_N[rows] = 1 - rate - wrong_share * (inputs.reward_N[rows] <= 0).double()
    return centred_N


def _pass_k(inputs: _Inputs) -> int:
    if inputs.k is None or inputs.k < 1:
        raise ConfigError(f"baseline passk needs k of at least 1; k is {inputs.k}.")
    return inputs.k


def _pass_rate(inputs: _Inputs, rows: Tensor) -> tuple[int, float | None]:
    """(wrong completions, pass@k) of a group; None when fewer than k were judged."""
    k = _pass_k(inputs)
    num_wrong = int((inputs.reward_N[rows] <= 0).sum())
    return num_wrong, 1 - comb(num_wrong, k) / comb(len(rows), k) if len(rows) >= k else None


def _divide(centred_N: Tensor, std: Tensor, eps: float) -> Tensor:
    """centred / (std + eps), 0 where the standard deviation is 0."""
    return torch.where(std > 0, centred_N / (std + eps), torch.zeros_like(centred_N))


def _group_std(centred_N: Tensor, inputs: _Inputs) -> Tensor:
    return _divide(centred_N, inputs.groups.std(inputs.reward_N, inputs.ddof), inputs.eps)


def _batch_std(centred_N: Tensor, inputs: _Inputs) -> Tensor:
    """Of the raw rewards of the step (Lite PPO 2508.08221)."""
    return _divide(centred_N, batch_std(inputs.judged, inputs.ddof), inputs.eps)


def _batch_std_centred(centred_N: Tensor, inputs: _Inputs) -> Tensor:
    """Of the rewards of the step less their baseline (ScaleRL 2510.13786)."""
    return _divide(centred_N, batch_std(centred_N[inputs.groups.judged_N], inputs.ddof), inputs.eps)


def _mean_scale(centred_N: Tensor, inputs: _Inputs) -> Tensor:
    """By the group mean, 0 where that is 0; meant for rewards of at least 0 (MaxRL 2602.02710)."""
    mean_N = inputs.groups.mean(inputs.reward_N)
    return torch.where(mean_N != 0, centred_N / mean_N, torch.zeros_like(centred_N))


def _passk_std(centred_N: Tensor, inputs: _Inputs) -> Tensor:
    """By sqrt(P (1 - P)), 0 where that is 0."""
    scaled_N = torch.zeros_like(centred_N)
    for rows in inputs.groups.rows():
        rate = _pass_rate(inputs, rows)[1]
        if rate is not None and 0 < rate < 1:
            scaled_N[rows] = centred_N[rows] / sqrt(rate * (1 - rate))
    return scaled_N


def _nonzero(centred_N: Tensor, inputs: _Inputs) -> Tensor:
    """Times B / (completions whose advantage is not 0): groups without signal take nothing away (GPG 2504.02546)."""
    num_nonzero = int((centred_N != 0).sum())
    return centred_N * (len(inputs.judged) / num_nonzero) if num_nonzero else centred_N


_BASELINES: dict[Baseline, Callable[[_Inputs], Tensor]] = {
    "none": _no_baseline,
    "group_mean": _group_mean,
    "group_loo": _group_loo,
    "batch_mean": _batch_mean,
    "length_weighted": _length_weighted,
    "ema": _ema,
    "greedy": _greedy,
    "best_minus_second": _best_minus_second,
    "passk": _passk,
}

_SCALES: dict[Scale, Callable[[Tensor, _Inputs], Tensor]] = {
    "none": lambda centred_N, inputs: centred_N,
    "group_std": _group_std,
    "batch_std": _batch_std,
    "batch_std_centred": _batch_std_centred,
    "group_mean": _mean_scale,
    "passk_std": _passk_std,
    "nonzero": _nonzero,
}


def _required(value: Tensor | None, what: str, name: str) -> Tensor:
    if value is None:
        raise ConfigError(f"{what} needs {name}.")
    return value


def _check_name(field: str, value: str, known: Any) -> None:
    if value not in known:
        raise ConfigError(f'unknown {field} "{value}".{did_you_mean(value, known)} Known: {", ".join(known)}.')
