"""Makes the per-token record of a step from its result."""

from __future__ import annotations

import torch
from torch import Tensor

from groupwise.runs.token_record import TokenRecord
from groupwise.train.step import StepResult


def token_record(result: StepResult) -> TokenRecord:
    """Every completion of the step has its log-probs; those of groups that were dropped have nothing else: NaN."""
    batch = result.batch
    completions = [completion for group in result.groups for completion in group.completions]
    logprob = [completion.rollout_logprob[place] for completion in completions for place in completion.sampled]
    policy_NT = result.update.logprob_NT if batch.old_logprob_NT is None else batch.old_logprob_NT
    ref_NT = batch.ref_logprob_NT
    ratio_NT = None if policy_NT is None or ref_NT is None else policy_NT - ref_NT
    advantage_NT = batch.advantages if batch.advantages.dim() == 2 else None

    def flat(values_NT: Tensor | None) -> Tensor | None:
        if values_NT is None:
            return None
        used = values_NT[batch.mask_NT].float().cpu()
        return torch.cat([used, used.new_full((len(logprob) - len(used),), float("nan"))])

    return TokenRecord.of([c.num_sampled for c in completions], logprob, flat(ratio_NT), flat(advantage_NT))
