"""Log-probs of a step's completions as the first pass over each computes them, kept where nothing else has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from groupwise.train.batch import Batch
from groupwise.world import World

Keep = Callable[[Sequence[int], Tensor], None]
"""(rows of an optimizer step, their log-probs NT)."""


def keep_none(rows: Sequence[int], logprob_NT: Tensor) -> None:
    """For a pass whose log-probs nobody reads."""


class FirstLogProbs:
    """The rows of a batch, NaN where no pass was made; each rank keeps those of its own passes."""

    def __init__(self, batch: Batch) -> None:
        self._logprob_NT = torch.full_like(batch.rollout_logprob_NT, float("nan"))

    def keeper(self, rows: Sequence[int]) -> Keep:
        """Keeps those of an optimizer step over these rows of the batch."""

        def keep(part: Sequence[int], logprob_NT: Tensor) -> None:
            index = torch.tensor([rows[i] for i in part], device=self._logprob_NT.device)
            self._logprob_NT[index, : logprob_NT.shape[1]] = logprob_NT.detach()

        return keep

    def of_all_ranks(self, world: World) -> Tensor:
        """NT: every row, on every rank; of several ranks by one sum of two numbers a token."""
        if world.size == 1:
            return self._logprob_NT
        is_kept_NT = (~self._logprob_NT.isnan()).float()
        logprob_NT = self._logprob_NT.nan_to_num()
        world.sum_([logprob_NT, is_kept_NT], "log-probs for the record")
        return logprob_NT.masked_fill(is_kept_NT == 0, float("nan"))
