"""The advantages of a step: the objective's, or process supervision's from the rewards of steps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from groupwise.algo import objective_advantages, process_advantages
from groupwise.config import Settings
from groupwise.rewards.signal import weighted_steps
from groupwise.train.batch import LogProbs, Samples


def step_advantages(
    config: Settings,
    samples: Samples,
    logprobs: LogProbs,
    reward_weights: Sequence[float] | None,
    *,
    beta: float,
    ema_start: float,
) -> Tensor:
    """N, or NT where they differ by token. `beta` weighs a KL in the reward; `ema_start` is read by baseline ema."""
    objective = config.objective
    group_N = samples.group_N.cpu()
    if config.process_rewards:
        weights = reward_weights or [1.0] * samples.rewards_NK.shape[1]
        scored = [steps for group in samples.groups for steps in weighted_steps(group, weights)]
        by_token: Tensor = process_advantages(
            [[end for end, _ in steps] for steps in scored],
            [[reward for _, reward in steps] for steps in scored],
            group_N,
            [len(ids) for ids in samples.rows.token_ids],  # ends are places, given tokens counted
            ddof=objective.ddof,
            eps=objective.eps,
        )
        return by_token
    is_each = objective.combine == "normalise_each"
    found: Tensor = objective_advantages(
        objective,
        samples.rewards_NK if is_each else samples.reward_N,
        group_N,
        weights_K=reward_weights if is_each else None,
        mask_NT=samples.mask_NT,
        old_logprob_NT=logprobs.old_NT,
        ref_logprob_NT=logprobs.ref_NT,
        beta=beta,
        greedy_reward_N=samples.greedy_reward_N if objective.baseline == "greedy" else None,
        ema_start=ema_start,
    )
    return found
