"""Advantages of turns: a completion against its group, and each turn against the turns taken in the same state (GiGPO).

Shapes: N completions, T completion tokens. Statistics in float64.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from groupwise.algo.groups import Groups, as_numbers
from groupwise.algo.process import check_steps
from groupwise.errors import RewardError


def gigpo_advantages(
    turn_ends: Sequence[Sequence[int]],
    turn_rewards: Sequence[Sequence[float | None]],
    turn_states: Sequence[Sequence[Hashable]],
    group_N: Tensor | Sequence[int],
    lengths_N: Tensor | Sequence[int],
    *,
    discount: float = 0.95,
    weight: float = 1.0,
    ddof: int = 1,
    eps: float | None = 1e-4,
) -> Tensor:
    """A_it = z(R_i) + weight z(G_ik), k the turn of token t, NT with T the longest (GiGPO 2505.10978, eq. 3 to 8).

    R_i is the sum of the rewards of completion i, z(R_i) = (R_i - mean) / (std + eps) over its group. G_ik = sum over
    the turns j from k on of discount^(j - k) r_ij is the return of turn k, z(G_ik) the same over all turns of the group
    that were taken in an equal state (`Turn.state`). A turn whose state no other turn shares has z(G_ik) = 0, so where
    states never repeat this is GRPO. `eps` None divides by nothing, as in Dr. GRPO.

    `turn_ends` are 1-based inclusive token positions, in ascending order; the tokens after the end before belong to the
    turn. A reward of None or NaN adds nothing; a completion without any other is unscored: it has advantage 0 and
    stays out of all statistics.

    Raises:
        RewardError: as many ends as rewards and states are expected, each end between 1 and the completion's length.
    """
    lengths, groups = [int(length) for length in lengths_N], [int(group) for group in group_N]
    for row, (ends, given, states) in enumerate(zip(turn_ends, turn_rewards, turn_states, strict=True)):
        check_steps(row, ends, given, lengths[row])
        if len(states) != len(ends):
            raise RewardError(f"completion {row}: {len(states)} states for {len(ends)} turns; expected as many.")
    rewards = [as_numbers([float("nan") if r is None else float(r) for r in row])[0] for row in turn_rewards]
    is_scored = [bool((~row.isnan()).any()) for row in rewards]
    totals = [float(row.nansum()) if scored else float("nan") for row, scored in zip(rewards, is_scored, strict=True)]
    whole_N = _z_scores(totals, groups, ddof, eps)

    rows = [row for row, scored in enumerate(is_scored) if scored]
    keys = [(groups[row], state) for row in rows for state in turn_states[row]]
    returns = [value for row in rows for value in _returns(rewards[row].nan_to_num().tolist(), discount)]
    by_turn = iter(_z_scores(returns, _numbered(keys), ddof, eps).tolist())
    found_NT = torch.zeros(len(lengths), max(lengths, default=0), dtype=torch.float64)
    for row in rows:
        for start, end in pairwise([0, *turn_ends[row]]):
            found_NT[row, start:end] = whole_N[row] + weight * next(by_turn)
    return found_NT


def _returns(rewards: Sequence[float], discount: float) -> list[float]:
    """Of each turn: its reward and the discounted ones after it."""
    returns, later = [], 0.0
    for reward in reversed(rewards):
        later = reward + discount * later
        returns.append(later)
    return returns[::-1]


def _numbered(keys: Sequence[Hashable]) -> list[int]:
    """Equal keys have equal numbers."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [numbers[key] for key in keys]


def _z_scores(values: Sequence[float], groups: Sequence[int], ddof: int, eps: float | None) -> Tensor:
    """(v - mean) / (std + eps) in each group, 0 for NaN and where all values of a group are equal."""
    numbers = torch.tensor(values, dtype=torch.float64)
    by_group = Groups(torch.tensor(groups, dtype=torch.long), ~numbers.isnan())
    scores = numbers - by_group.mean(numbers)
    if eps is not None:
        scores = scores / (by_group.std(numbers, ddof) + eps)
    return torch.where(by_group.has_signal(numbers) & by_group.scored_N, scores, torch.zeros_like(scores))
