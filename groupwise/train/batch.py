"""Groups as tensors for the learner.

Shapes: N completions of the step, T the longest of them, K reward functions. NT arrays hold completion tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from groupwise.policy.network import completion_mask
from groupwise.policy.packing import Rows
from groupwise.types import Group


@dataclass(frozen=True)
class Scores:
    """Log-probs of the step's completions under other policies than the one being trained; None where not needed."""

    old_logprob_NT: Tensor | None = None
    ref_logprob_NT: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """One optimizer step's completions, or some rows of them."""

    rows: Rows
    mask_NT: Tensor
    group_N: Tensor
    rewards_NK: Tensor
    """NaN where a function could not judge."""
    is_truncated_N: Tensor
    rollout_logprob_NT: Tensor
    advantages: Tensor
    """N, or NT where they differ by token."""
    old_logprob_NT: Tensor | None = None
    ref_logprob_NT: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Sequence[int]) -> Batch:
        """The given rows, with columns cut to the longest of them."""
        picked = self.rows.select(rows)
        index = torch.tensor(rows, device=self.mask_NT.device)
        width = max((len(ids) for ids in picked.token_ids), default=0)
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        by_token = {name for name in tensors if name.endswith("_NT")} | (
            {"advantages"} if self.advantages.dim() == 2 else set()
        )
        cut = {
            name: t[index.to(t.device), :width] if name in by_token else t[index.to(t.device)]
            for name, t in tensors.items()
        }
        return replace(self, rows=picked, **cut)


def rows_of(groups: Sequence[Group]) -> Rows:
    """The completions of all groups, one after another."""
    pairs = [(number, group, c) for number, group in enumerate(groups) for c in group.completions]
    kept = [c.kept_ids for _, _, c in pairs]
    return Rows(
        [group.prompt_ids for _, group, _ in pairs],
        [c.token_ids for _, _, c in pairs],
        [number for number, _, _ in pairs],
        kept if any(k is not None for k in kept) else None,
    )


def reward_matrix(groups: Sequence[Group]) -> Tensor:
    """What counts of the rewards, NK in float64, one column a function, NaN where it could not judge."""
    columns = [group.counting for group in groups]
    rows = [
        [values[i] for values in by_name.values()]
        for by_name, g in zip(columns, groups, strict=True)
        for i in range(len(g.completions))
    ]
    return torch.tensor([[float("nan") if r is None else float(r) for r in row] for row in rows], dtype=torch.float64)


def make_batch(groups: Sequence[Group], scores: Scores, device: torch.device) -> Batch:
    """Tensors of the step; `advantages` are still 0 (`Learner.prepare` fills them in)."""
    rows = rows_of(groups)
    completions = [c for group in groups for c in group.completions]
    rollout = [torch.tensor(c.rollout_logprob, dtype=torch.float32) for c in completions]
    return Batch(
        rows=rows,
        mask_NT=completion_mask(rows, device),
        group_N=torch.tensor(rows.group, device=device),
        rewards_NK=reward_matrix(groups),
        is_truncated_N=torch.tensor([c.is_truncated for c in completions], device=device),
        rollout_logprob_NT=nn.utils.rnn.pad_sequence(rollout, batch_first=True).to(device),
        advantages=torch.zeros(len(rows), device=device),
        old_logprob_NT=scores.old_logprob_NT,
        ref_logprob_NT=scores.ref_logprob_NT,
    )
