"""The estimators of the advantage: one function for each value of `Objective.baseline` and of `Objective.scale`.

`docs/algorithm.md` has the table with sources. Shapes: N completions, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb, sqrt

import torch
from torch import Tensor

from groupwise.algo.axes import GROUP_BASELINES, Baseline, Scale
from groupwise.algo.groups import Groups, batch_std
from groupwise.algo.process import whiten_tokens
from groupwise.errors import ConfigError
from groupwise.rounding import is_equal


@dataclass(frozen=True, slots=True)
class Inputs:
    """One reward a completion (float64, 0 where not scored) and what the rarer estimators read."""

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
    def scored(self) -> Tensor:
        """The scored rewards of the step, without the others."""
        return self.reward_N[self.groups.scored_N]


def estimate(baseline: Baseline, scale: Scale, inputs: Inputs) -> Tensor:
    """(R - baseline) / scale, 0 for an unscored completion and, against its own group, for a group without signal."""
    if (baseline == "passk") != (scale == "passk_std") and (baseline, scale) != ("passk", "none"):
        raise ConfigError(f"baseline {baseline} with scale {scale}: passk goes with passk_std or none.")
    centred_N = BASELINES[baseline](inputs)
    counted_N = inputs.groups.scored_N
    if baseline in GROUP_BASELINES or scale == "group_std":
        counted_N = counted_N & inputs.groups.has_signal(inputs.reward_N)
    is_centred = baseline in GROUP_BASELINES
    centred_N = torch.where(counted_N if is_centred else inputs.groups.scored_N, centred_N, torch.zeros_like(centred_N))
    if scale == "token_whiten":
        return _whiten(centred_N, counted_N, inputs)
    scaled_N = SCALES[scale](centred_N, inputs)
    return torch.where(counted_N, scaled_N, torch.zeros_like(scaled_N))


def _whiten(centred_N: Tensor, counted_N: Tensor, inputs: Inputs) -> Tensor:
    """The advantage of each completion on each of its tokens, whitened over all tokens of the step."""
    lengths_N = _required(inputs.lengths_N, "scale token_whiten", "lengths_N")
    positions_T = torch.arange(int(lengths_N.max()) if len(lengths_N) else 0, device=centred_N.device)
    mask_NT = positions_T < lengths_N.unsqueeze(1)
    values_NT = centred_N.unsqueeze(1).expand(mask_NT.shape)
    whitened_NT = whiten_tokens(
        values_NT, mask_NT & inputs.groups.scored_N.unsqueeze(1), ddof=inputs.ddof, eps=inputs.eps
    )
    return torch.where(counted_N.unsqueeze(1), whitened_NT, torch.zeros_like(whitened_NT))


def _no_baseline(inputs: Inputs) -> Tensor:
    return inputs.reward_N


def _group_mean(inputs: Inputs) -> Tensor:
    """R - mean over the group (DeepSeekMath 2402.03300; without a scale Dr. GRPO 2503.20783)."""
    return inputs.reward_N - inputs.groups.mean(inputs.reward_N)


def _group_loo(inputs: Inputs) -> Tensor:
    """R - mean of the others = G / (G - 1) (R - mean) (RLOO 2402.14740)."""
    count_N = inputs.groups.count_N
    return _group_mean(inputs) * count_N / (count_N - 1).clamp(min=1)


def _batch_mean(inputs: Inputs) -> Tensor:
    """R - mean over the step."""
    scored = inputs.scored
    if len(scored) == 0 or is_equal(scored.min(), scored.max()):
        return torch.zeros_like(inputs.reward_N)
    return inputs.reward_N - scored.mean()


def _length_weighted(inputs: Inputs) -> Tensor:
    """R - sum |o| R / sum |o| over the group (OPO 2505.23585)."""
    lengths_N = _required(inputs.lengths_N, "baseline length_weighted", "lengths_N")
    total_N = inputs.groups.sum(lengths_N)
    weighted_N = inputs.groups.sum(lengths_N * inputs.reward_N) / total_N.clamp(min=1e-12)
    return inputs.reward_N - torch.where(total_N > 0, weighted_N, inputs.groups.mean(inputs.reward_N))


def _ema(inputs: Inputs) -> Tensor:
    """R - b with b <- decay b + (1 - decay) R after each scored completion, in row order (RAE 2506.24119)."""
    centred_N, average = inputs.reward_N.clone(), inputs.ema_start
    for row in inputs.groups.scored_N.nonzero().squeeze(1).tolist():
        reward = float(inputs.reward_N[row])
        centred_N[row] = reward - average
        average = inputs.ema_decay * average + (1 - inputs.ema_decay) * reward
    return centred_N


def _greedy(inputs: Inputs) -> Tensor:
    """R - the reward of the greedy completion of the same prompt, 0 where that was not scored (ReMax 2310.10505)."""
    greedy_N = _required(inputs.greedy_N, "baseline greedy", "greedy_reward_N")
    is_nothing_N = greedy_N.isnan() | is_equal(greedy_N, inputs.reward_N)
    return torch.where(is_nothing_N, torch.zeros_like(greedy_N), inputs.reward_N - greedy_N)


def _best_minus_second(inputs: Inputs) -> Tensor:
    """The best completion of a group gets its margin over the second best, the others 0 (2503.19595)."""
    margin_N = torch.zeros_like(inputs.reward_N)
    for rows in inputs.groups.rows():
        if len(rows) >= 2:
            ordered, order = inputs.reward_N[rows].sort(descending=True, stable=True)
            margin_N[rows[order[0]]] = 0.0 if is_equal(ordered[0], ordered[1]) else ordered[0] - ordered[1]
    return margin_N


def _passk(inputs: Inputs) -> Tensor:
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
        centred_N[rows] = 1 - rate - wrong_share * _is_wrong(inputs.reward_N[rows]).double()
    return centred_N


def _is_wrong(rewards: Tensor) -> Tensor:
    is_zero: Tensor = is_equal(rewards, torch.zeros_like(rewards))
    return is_zero | (rewards <= 0)


def _pass_k(inputs: Inputs) -> int:
    if inputs.k is None or inputs.k < 1:
        raise ConfigError(f"baseline passk needs k of at least 1; k is {inputs.k}.")
    return inputs.k


def _pass_rate(inputs: Inputs, rows: Tensor) -> tuple[int, float | None]:
    """(wrong completions, pass@k) of a group; None when fewer than k were scored."""
    k = _pass_k(inputs)
    num_wrong = int(_is_wrong(inputs.reward_N[rows]).sum())
    return num_wrong, 1 - comb(num_wrong, k) / comb(len(rows), k) if len(rows) >= k else None


def _divide(centred_N: Tensor, std: Tensor, eps: float) -> Tensor:
    """centred / (std + eps), 0 where the standard deviation is 0."""
    return torch.where(std > 0, centred_N / (std + eps), torch.zeros_like(centred_N))


def _group_std(centred_N: Tensor, inputs: Inputs) -> Tensor:
    return _divide(centred_N, inputs.groups.std(inputs.reward_N, inputs.ddof), inputs.eps)


def _batch_std(centred_N: Tensor, inputs: Inputs) -> Tensor:
    """Of the raw rewards of the step (Lite PPO 2508.08221)."""
    return _divide(centred_N, batch_std(inputs.scored, inputs.ddof), inputs.eps)


def _batch_std_centred(centred_N: Tensor, inputs: Inputs) -> Tensor:
    """Of the rewards of the step less their baseline (ScaleRL 2510.13786)."""
    return _divide(centred_N, batch_std(centred_N[inputs.groups.scored_N], inputs.ddof), inputs.eps)


def _mean_scale(centred_N: Tensor, inputs: Inputs) -> Tensor:
    """By the group mean, 0 where that is 0; meant for rewards of at least 0 (MaxRL 2602.02710)."""
    mean_N = inputs.groups.mean(inputs.reward_N)
    is_zero_N = is_equal(mean_N, torch.zeros_like(mean_N))
    return torch.where(is_zero_N, torch.zeros_like(centred_N), centred_N / mean_N)


def _passk_std(centred_N: Tensor, inputs: Inputs) -> Tensor:
    """By sqrt(P (1 - P)), 0 where that is 0."""
    scaled_N = torch.zeros_like(centred_N)
    for rows in inputs.groups.rows():
        rate = _pass_rate(inputs, rows)[1]
        if rate is not None and 0 < rate < 1:
            scaled_N[rows] = centred_N[rows] / sqrt(rate * (1 - rate))
    return scaled_N


def _nonzero(centred_N: Tensor, inputs: Inputs) -> Tensor:
    """Times B / (completions whose advantage is not 0): groups without signal take nothing away (GPG 2504.02546)."""
    num_nonzero = int((centred_N != 0).sum())
    return centred_N * (len(inputs.scored) / num_nonzero) if num_nonzero else centred_N


BASELINES: dict[Baseline, Callable[[Inputs], Tensor]] = {
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

SCALES: dict[Scale, Callable[[Tensor, Inputs], Tensor]] = {
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
