"""Random small batches for the tests of the objective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from groupwise.algo import Objective, policy_loss, step_weights


@dataclass(frozen=True)
class Batch:
    """Inputs of one optimizer step, float64, padding 0."""

    logprob_NT: Tensor
    mask_NT: Tensor
    advantage_N: Tensor
    old_NT: Tensor
    rollout_NT: Tensor
    ref_NT: Tensor
    entropy_NT: Tensor
    group_N: Tensor

    def rows(self, index: Any) -> Batch:
        return Batch(**{name: value[index] for name, value in vars(self).items()})

    def on_policy(self) -> Batch:
        """Old and rollout log-probs equal to the policy's."""
        return replace(self, old_NT=self.logprob_NT.clone(), rollout_NT=self.logprob_NT.clone())

    def scores(self) -> dict[str, Tensor]:
        """The keyword arguments that `step_weights` takes."""
        return {
            "old_logprob_NT": self.old_NT,
            "rollout_logprob_NT": self.rollout_NT,
            "entropy_NT": self.entropy_NT,
        }


def make_batch(
    seed: int, *, num_groups: int = 3, group_size: int = 4, max_tokens: int = 6, spread: float = 0.5
) -> Batch:
    """Groups of completions of 1 to `max_tokens` tokens whose policies differ by `spread` in log-prob."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = num_groups * group_size
    lengths_N = torch.randint(1, max_tokens + 1, (rows,), generator=generator)
    mask_NT = torch.arange(max_tokens) < lengths_N.unsqueeze(1)
    logprob_NT = -normal(rows, max_tokens).abs() - 0.05
    rewards = normal(num_groups, group_size)
    return Batch(
        logprob_NT=logprob_NT.where(mask_NT, torch.zeros(())),
        mask_NT=mask_NT,
        advantage_N=(rewards - rewards.mean(dim=1, keepdim=True)).flatten(),
        old_NT=_below_one(logprob_NT + spread * normal(rows, max_tokens), mask_NT),
        rollout_NT=_below_one(logprob_NT + spread * normal(rows, max_tokens), mask_NT),
        ref_NT=_below_one(logprob_NT + spread * normal(rows, max_tokens), mask_NT),
        entropy_NT=normal(rows, max_tokens).abs().where(mask_NT, torch.zeros(())),
        group_N=torch.arange(num_groups).repeat_interleave(group_size),
    )


def loss_of(objective: Objective, batch: Batch, **changes: Any) -> tuple[Tensor, Tensor, Any]:
    """(loss, gradient with respect to the log-probs, stats) over the whole batch."""
    torch.manual_seed(0)  # Clip-Cov draws tokens
    logprob_NT = batch.logprob_NT.clone().requires_grad_()
    loss, stats = policy_loss(objective, logprob_NT, batch.mask_NT, batch.advantage_N, **arguments(batch), **changes)
    loss.backward()
    assert logprob_NT.grad is not None
    return loss.detach(), logprob_NT.grad, stats


def arguments(batch: Batch) -> dict[str, Any]:
    """The keyword arguments of `policy_loss`."""
    return {**batch.scores(), "ref_logprob_NT": batch.ref_NT, "group_N": batch.group_N}


def weights_of(objective: Objective, batch: Batch, *, is_truncated_N: Tensor | None = None) -> Any:
    """The step's weights, with the log-probs that masks over the step read."""
    return step_weights(
        objective,
        batch.mask_NT,
        batch.group_N,
        batch.advantage_N,
        logprob_NT=batch.logprob_NT,
        is_truncated_N=is_truncated_N,
        generator=torch.Generator().manual_seed(0),
        **batch.scores(),
    )


def preset(name: str, **overrides: Any) -> Objective:
    """A preset that can be evaluated on these batches: it gets a maximum length, and shares that act on few tokens."""
    return Objective.preset(name, **{"max_length": 7, "covariance_fraction": 0.2, "covariance_low": 0.0, **overrides})


def _below_one(logprob_NT: Tensor, mask_NT: Tensor) -> Tensor:
    return logprob_NT.clamp(max=-0.01).where(mask_NT, torch.zeros(()))
