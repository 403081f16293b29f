"""Advantages that differ from token to token: process supervision, reward-to-go, whitening.

Shapes: N completions, T completion tokens. Statistics in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from groupwise.algo.groups import Groups, as_numbers, batch_std
from groupwise.algo.ratio import clean
from groupwise.errors import RewardError


def process_advantages(
    step_ends: Sequence[Sequence[int]],
    step_rewards: Sequence[Sequence[float | None]],
    group_N: Tensor | Sequence[int],
    lengths_N: Tensor | Sequence[int],
    *,
    ddof: int = 1,
    eps: float = 1e-4,
) -> Tensor:
    """A_it = sum over the steps of i that end at or after t of (r - mean(R)) / (std(R) + eps), NT with T the longest.

    R holds every scored step reward of the whole group (DeepSeekMath 2402.03300, section 4.1.3). `step_ends` are
    1-based inclusive token positions; a step reward of NaN or None was not scored and adds nothing.

    Raises:
        RewardError: as many ends as rewards are expected, each end between 1 and the completion's length.
    """
    lengths = [int(length) for length in lengths_N]
    groups = [int(group) for group in group_N]
    rows, ends, flat = [], [], []
    for row, (row_ends, row_rewards) in enumerate(zip(step_ends, step_rewards, strict=True)):
        check_steps(row, row_ends, row_rewards, lengths[row])
        rows += [row] * len(row_ends)
        ends += [int(end) for end in row_ends]
        flat += [float("nan") if reward is None else float(reward) for reward in row_rewards]
    rewards, _ = as_numbers(flat)
    by_group = Groups(torch.tensor([groups[row] for row in rows], dtype=torch.long), ~rewards.isnan())
    scores = (rewards - by_group.mean(rewards)) / (by_group.std(rewards, ddof) + eps)
    scores = torch.where(by_group.has_signal(rewards) & by_group.scored_N, scores, torch.zeros_like(scores))
    at_end_NT = torch.zeros(len(lengths), max(lengths, default=0), dtype=torch.float64)
    index = (torch.tensor(rows, dtype=torch.long), torch.tensor(ends, dtype=torch.long) - 1)
    at_end_NT = at_end_NT.index_put(index, scores, accumulate=True)
    return _to_go(at_end_NT)


def reward_to_go(
    rewards_N: Tensor | Sequence[float],
    old_logprob_NT: Tensor,
    ref_logprob_NT: Tensor,
    mask_NT: Tensor,
    beta: float,
) -> Tensor:
    """R_i - beta sum_{s >= t} (old_logprob_is - ref_logprob_is): the reward with the k1 KL in it, NT, 0 in padding.

    The first column is the sequence's whole reward (RLOO 2402.14740); all columns are REINFORCE++'s returns
    (2501.03262, gamma 1). A reward of NaN stays NaN.
    """
    is_loss_NT = mask_NT > 0
    numbers, dtype = as_numbers(rewards_N)
    gap_NT = clean((old_logprob_NT - ref_logprob_NT).detach().double(), is_loss_NT)
    returns_NT = numbers.to(gap_NT.device).unsqueeze(1) - beta * _to_go(gap_NT)
    wide = dtype if isinstance(rewards_N, Tensor) else old_logprob_NT.dtype
    return clean(returns_NT, is_loss_NT).to(torch.promote_types(wide, old_logprob_NT.dtype))


def whiten_tokens(values_NT: Tensor, mask_NT: Tensor, *, ddof: int = 1, eps: float = 1e-4) -> Tensor:
    """(A - mean) / (std + eps) over all loss tokens of the step, 0 in padding and where the value is NaN.

    REINFORCE++ (2501.03262). Long sequences weigh more in the statistics.
    """
    counted_NT = (mask_NT > 0) & ~values_NT.isnan()
    tokens = values_NT[counted_NT].double()
    std = batch_std(tokens, ddof)
    if len(tokens) == 0 or float(std) == 0:
        return torch.zeros_like(values_NT)
    return clean((values_NT.double() - tokens.mean()) / (std + eps), counted_NT).to(values_NT.dtype)


def _to_go(values_NT: Tensor) -> Tensor:
    """Sum of this and all later columns."""
    return values_NT.flip(1).cumsum(1).flip(1)


def check_steps(row: int, ends: Sequence[int], rewards: Sequence[float | None], length: int) -> None:
    """Raise `RewardError` unless each reward has its end, inside of the completion."""
    if len(ends) != len(rewards):
        raise RewardError(f"completion {row}: {len(rewards)} step rewards for {len(ends)} step ends; expected as many.")
    outside = [int(end) for end in ends if not 1 <= int(end) <= length]
    if outside:
        raise RewardError(f"completion {row}: a step ends at token {outside[0]}; expected 1 to its length {length}.")
