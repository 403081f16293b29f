"""The advantages of a step: the objective's, or process supervision's from the rewards of steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from groupwise.algo import objective_advantages, process_advantages
from groupwise.config import GRPOConfig
from groupwise.train.batch import Batch
from groupwise.train.signal import weighted_steps
from groupwise.types import Group


def step_advantages(
    config: GRPOConfig,
    groups: Sequence[Group],
    batch: Batch,
    reward_weights: Sequence[float] | None,
    *,
    beta: float,
    ema_start: float,
) -> Tensor:
    """N, or NT where they differ by token. `beta` weighs a KL in the reward; `ema_start` is read by baseline ema."""
    objective = config.resolved_objective
    if config.process_rewards:
        steps = [pairs for group in groups for pairs in weighted_steps(group, reward_weights)]
        by_token: Tensor = process_advantages(
            [[end for end, _ in pairs] for pairs in steps],
            [[reward for _, reward in pairs] for pairs in steps],
            batch.group_N.cpu(),
            batch.mask_NT.sum(dim=1).cpu(),
            ddof=objective.ddof,
            eps=objective.eps,
        )
        return by_token
    found: Tensor = objective_advantages(
        objective,
        batch.rewards_NK,
        batch.group_N.cpu(),
        weights_K=reward_weights,
        mask_NT=batch.mask_NT,
        old_logprob_NT=batch.old_logprob_NT,
        ref_logprob_NT=batch.ref_logprob_NT,
        beta=beta,
        greedy_reward_N=_greedy_rewards(groups) if objective.baseline == "greedy" else None,
        ema_start=ema_start,
    )
    return found


def _greedy_rewards(groups: Sequence[Group]) -> Tensor:
    """The greedy completion's reward for every completion of its group, N; NaN where it could not be judged."""
    rewards = [(group.greedy_reward, len(group.completions)) for group in groups]
    rows = [float("nan") if reward is None else reward for reward, count in rewards for _ in range(count)]
    return torch.tensor(rows, dtype=torch.float64)
