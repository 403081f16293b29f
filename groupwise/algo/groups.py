"""Statistics over the groups of a step and over the whole step, in float64; unscored completions are left out.

Shapes: N completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from groupwise.errors import RewardError
from groupwise.rounding import LARGEST, is_equal


class Groups:
    """Which rows belong together, and which of them count."""

    def __init__(self, group_N: Tensor | Sequence[int], scored_N: Tensor) -> None:
        ids, self.index_N = torch.unique(torch.as_tensor(group_N, device=scored_N.device), return_inverse=True)
        assert self.index_N.shape == scored_N.shape, f"{len(self.index_N)} group ids for {len(scored_N)} completions"
        self.num_groups = len(ids)
        self.scored_N = scored_N
        self.count_N = self.sum(scored_N.double())

    def sum(self, values_N: Tensor) -> Tensor:
        """Sum over the scored rows of its group, for every row."""
        kept = torch.where(self.scored_N, values_N, torch.zeros_like(values_N))
        totals = torch.zeros(self.num_groups, dtype=values_N.dtype, device=values_N.device)
        return totals.index_add(0, self.index_N, kept)[self.index_N]

    def mean(self, values_N: Tensor) -> Tensor:
        """Mean over the scored rows of its group, for every row."""
        return self.sum(values_N) / self.count_N.clamp(min=1)

    def std(self, values_N: Tensor, ddof: int) -> Tensor:
        """Standard deviation of its group, for every row; 0 with too few scored rows."""
        squares = self.sum((values_N - self.mean(values_N)).square())
        return (squares / (self.count_N - ddof).clamp(min=1)).sqrt()

    def has_signal(self, values_N: Tensor) -> Tensor:
        """Whether the scored rows of its group differ by more than rounding, for every row."""
        low = torch.full((self.num_groups,), float("inf"), dtype=values_N.dtype, device=values_N.device)
        index, scored = self.index_N[self.scored_N], values_N[self.scored_N]
        lowest = low.scatter_reduce(0, index, scored, "amin")
        highest = (-low).scatter_reduce(0, index, scored, "amax")
        is_flat: Tensor = is_equal(lowest, highest)  # without a scored row both are infinite, and equal
        return ~is_flat[self.index_N]

    def rows(self) -> list[Tensor]:
        """The scored rows of each group, in order."""
        return [((self.index_N == group) & self.scored_N).nonzero().squeeze(1) for group in range(self.num_groups)]


def batch_std(values: Tensor, ddof: int) -> Tensor:
    """Standard deviation of all values; exactly 0 where they are equal up to rounding, or too few."""
    if len(values) <= ddof or is_equal(values.min(), values.max()):
        return torch.zeros((), dtype=values.dtype, device=values.device)
    return ((values - values.mean()).square().sum() / (len(values) - ddof)).sqrt()


def as_numbers(rewards: Any) -> tuple[Tensor, torch.dtype]:
    """Rewards as float64 with NaN for None, and the dtype that results should have (float64 unless given a tensor)."""
    if isinstance(rewards, Tensor):
        dtype = rewards.dtype if rewards.dtype.is_floating_point else torch.float64
        numbers = rewards.detach().double()
    else:
        numbers, dtype = torch.tensor(_without_none(rewards), dtype=torch.float64), torch.float64
    too_large = numbers[numbers.abs() > LARGEST]
    if len(too_large):
        raise RewardError(
            f"a reward is {float(too_large[0]):g}: infinite, or too large for a baseline; expected a number of at most "
            f"{LARGEST:g} in size, or NaN for a completion that was not scored."
        )
    return numbers, dtype


def _without_none(values: Any) -> Any:
    if values is None:
        return float("nan")
    return [_without_none(value) for value in values] if isinstance(values, list | tuple) else float(values)
