"""The completions of a step as tensors: `Samples` is what was sampled and scored, `Batch` what the learner trains on.

Shapes: N completions of the step, T the longest of them, K reward functions. NT arrays hold completion tokens only;
those that nobody sampled are holes in the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import completion_mask
from groupwise.types import Group, ScoredGroup


@dataclass(frozen=True)
class Samples:
    """The completions of a step, one after another, with their rewards."""

    rows: CompletionRows
    mask_NT: Tensor
    group_N: Tensor
    rewards_NK: Tensor
    """Shaped rewards in float64; NaN is unscored."""
    reward_N: Tensor
    """The weighted sum over functions, in float64; NaN is unscored."""
    is_truncated_N: Tensor
    rollout_logprob_NT: Tensor
    greedy_reward_N: Tensor
    """Reward of the greedy completion of the same problem; NaN where there is none."""
    groups: tuple[ScoredGroup, ...]
    """Where they come from; rewards of steps are read here."""

    @classmethod
    def of(cls, groups: Sequence[ScoredGroup], device: torch.device) -> Samples:
        """The only place where groups are laid flat for the learner."""
        rows = rows_of(groups)
        completions = [c for group in groups for c in group.completions]
        rollout = [torch.tensor(c.rollout_logprob, dtype=torch.float32) for c in completions]
        return cls(
            rows=rows,
            mask_NT=completion_mask(rows, device),
            group_N=torch.tensor(rows.group, device=device),
            rewards_NK=reward_matrix(groups),
            reward_N=_numbers([reward for group in groups for reward in group.reward]),
            is_truncated_N=torch.tensor([c.is_truncated for c in completions], device=device),
            rollout_logprob_NT=nn.utils.rnn.pad_sequence(rollout, batch_first=True).to(device),
            greedy_reward_N=_numbers([group.greedy_reward for group in groups for _ in group.completions]),
            groups=tuple(groups),
        )


@dataclass(frozen=True)
class LogProbs:
    """Log-probs of the step's completions under other policies than the one being trained; None where not needed."""

    old_NT: Tensor | None = None
    ref_NT: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """The completions of one optimizer step, or some of them, as the loss reads them."""

    rows: CompletionRows
    mask_NT: Tensor
    group_N: Tensor
    is_truncated_N: Tensor
    rollout_logprob_NT: Tensor
    advantages: Tensor
    """N, or NT where they differ by token."""
    old_logprob_NT: Tensor | None = None
    ref_logprob_NT: Tensor | None = None

    @classmethod
    def of(cls, samples: Samples, logprobs: LogProbs, advantages: Tensor) -> Batch:
        """The whole step."""
        return cls(
            samples.rows,
            samples.mask_NT,
            samples.group_N,
            samples.is_truncated_N,
            samples.rollout_logprob_NT,
            advantages,
            logprobs.old_NT,
            logprobs.ref_NT,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Sequence[int]) -> Batch:
        """The given rows, with columns cut to the longest of them."""
        picked = self.rows.select(rows)
        index = torch.tensor(rows, device=self.mask_NT.device)
        width = max((len(ids) for ids in picked.token_ids), default=0)

        def by_token(tensor_NT: Tensor) -> Tensor:
            return tensor_NT[index.to(tensor_NT.device), :width]

        return replace(
            self,
            rows=picked,
            mask_NT=by_token(self.mask_NT),
            group_N=self.group_N[index],
            is_truncated_N=self.is_truncated_N[index],
            rollout_logprob_NT=by_token(self.rollout_logprob_NT),
            advantages=by_token(self.advantages) if self.advantages.dim() == 2 else self.advantages[index],
            old_logprob_NT=None if self.old_logprob_NT is None else by_token(self.old_logprob_NT),
            ref_logprob_NT=None if self.ref_logprob_NT is None else by_token(self.ref_logprob_NT),
        )


def rows_of(groups: Sequence[Group]) -> CompletionRows:
    """The completions of all groups, one after another."""
    pairs = [(number, group, c) for number, group in enumerate(groups) for c in group.completions]
    kept = [c.kept_ids for _, _, c in pairs]
    return CompletionRows(
        [group.prompt_ids for _, group, _ in pairs],
        [c.token_ids for _, _, c in pairs],
        [number for number, _, _ in pairs],
        kept if any(k is not None for k in kept) else None,
        [c.sampled for _, _, c in pairs] if any(c.turns for _, _, c in pairs) else None,
    )


def reward_matrix(groups: Sequence[ScoredGroup]) -> Tensor:
    """Shaped rewards NK in float64, one column a function; NaN is unscored."""
    by_group = [group.shaped_rewards for group in groups]
    rows = [
        [values[i] for values in by_function.values()]
        for by_function, group in zip(by_group, groups, strict=True)
        for i in range(len(group.completions))
    ]
    return torch.stack([_numbers(row) for row in rows]) if rows else torch.empty(0, 0, dtype=torch.float64)


def _numbers(values: Sequence[float | None]) -> Tensor:
    return torch.tensor([float("nan") if v is None else float(v) for v in values], dtype=torch.float64)
