"""`GRPOConfig` and `RLOOConfig` with TRL's defaults for whatever a script does not set (docs/from-trl.md)."""

from __future__ import annotations

from groupwise.config import grpo


class GRPOConfig(grpo.GRPOConfig):
    """Settings of a GRPO run. Nothing set is what TRL 1.16 does: DAPO's loss, 8 completions of one prompt, 3 epochs."""

    conventions = "trl"


class RLOOConfig(GRPOConfig):
    """Settings of an RLOO run. Nothing set is what TRL 1.16's RLOO does: pairs of completions, beta 0.05 in the reward.

    `normalize_advantages` scales the advantages by their spread over the step.
    """

    objective = "rloo_trl"
    num_generations = 2
