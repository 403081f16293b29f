"""How much is computed at a time: tokens of a learner's pass, completions that decode together.

Memory follows these limits; results do not, but for rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from groupwise.policy.backend import backend_of
from groupwise.policy.packing import CompletionRows, group_tokens, micro_batches


@dataclass(frozen=True, slots=True)
class ComputeLimits:
    """The limits of one run on one device."""

    least_tokens: int
    """Packed tokens that a pass takes even where groups are smaller."""
    most_tokens: int
    """Packed tokens of a pass where groups are larger."""
    concurrent: int
    """Completions that decode together."""
    divisor: int = 1
    """What the tokens of a pass are divided by after memory has run out."""

    @classmethod
    def of(cls, device: torch.device) -> ComputeLimits:
        """Those of a kind of device, before its memory is looked at."""
        traits = backend_of(device)
        return cls(*traits.pass_tokens, traits.concurrent)

    def tokens(self, rows: CompletionRows, fixed: int | None = None, num_ranks: int = 1) -> int:
        """Packed tokens of one pass over some of the rows: `fixed` where the user has set a number.

        Else that of the largest group within the bounds, so that its prompt is computed once. A pass that has to hold a
        long prompt holds as many tokens of completions too: else computing the prompt again for every few of them would
        be most of the work. Several ranks have a pass each.
        """
        if fixed is not None:
            return max(fixed // self.divisor, 1)
        low, high = self.least_tokens // self.divisor, self.most_tokens // self.divisor
        prompt = max(map(len, rows.prompt_ids))
        budget = min(max(group_tokens(rows), low), max(high, 2 * prompt, prompt + low))
        if num_ranks == 1:
            return budget
        share = sum(map(len, rows.token_ids)) // num_ranks
        return min(budget, prompt + max(share, max(map(len, rows.token_ids))))

    def passes(self, rows: CompletionRows, fixed: int | None = None, num_ranks: int = 1) -> list[list[int]]:
        """Row numbers of each pass."""
        return micro_batches(rows, self.tokens(rows, fixed, num_ranks))

    @property
    def is_halved(self) -> bool:
        return self.divisor > 1

    def halved(self) -> ComputeLimits:
        """Half the tokens a pass."""
        return replace(self, divisor=2 * self.divisor)
