"""The loss on held-out completions as TRL defines it: under the weights that sampled them, where every ratio is 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from groupwise.algo import policy_loss, step_weights
from groupwise.config import Settings
from groupwise.config.compat.foreign_getters import read
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.policy.reference import Reference
from groupwise.train.advantages import step_advantages
from groupwise.train.batch import LogProbs, Samples
from groupwise.train.learner import score_in_passes
from groupwise.types import ScoredGroup


def has_evaluation_loss(config: Settings) -> bool:
    """Whether evaluations measure a loss: under TRL's conventions, where the sampled log-probs are all that it reads.

    Entropies would need a pass over every completion, and the baselines ema and greedy what only training has.
    """
    objective = config.objective
    reads_entropy = "entropy" in objective.needs or objective.needs_forward or config.use_adaptive_entropy
    is_of_training = objective.baseline in ("ema", "greedy") or config.process_rewards
    return config.conventions == "trl" and not reads_entropy and not is_of_training


class EvaluationLoss:
    """The objective's loss of held-out completions; a KL to the reference costs a pass of the reference."""

    def __init__(
        self,
        config: Settings,
        policy_model: PolicyModel,
        reference: Reference | None,
        reward_weights: Sequence[float] | None,
    ) -> None:
        self.config, self.policy_model, self.reference = config, policy_model, reference
        self.reward_weights = reward_weights

    def __call__(self, groups: Sequence[ScoredGroup]) -> float:
        """The mean over batches of `per_device_eval_batch_size` completions, each with its own denominators."""
        size = max(1, read(self.config, "per_device_eval_batch_size") // len(groups[0].completions))
        batches = [groups[i : i + size] for i in range(0, len(groups), size)]
        return sum(self._of_batch(batch) * len(batch) for batch in batches) / len(groups)

    @torch.no_grad()
    def _of_batch(self, groups: Sequence[ScoredGroup]) -> float:
        objective, device = self.config.objective, self.policy_model.device
        samples = Samples.of(groups, device)
        logprobs = LogProbs(samples.rollout_logprob_NT, self._of_reference(samples))
        advantages = step_advantages(
            self.config, samples, logprobs, self.reward_weights, beta=objective.beta, ema_start=0.0
        ).to(device, torch.float32)
        weights = step_weights(
            objective,
            samples.mask_NT,
            samples.group_N,
            advantages,
            old_logprob_NT=logprobs.old_NT,
            rollout_logprob_NT=samples.rollout_logprob_NT,
            is_truncated_N=samples.is_truncated_N,
        )
        loss, _ = policy_loss(
            objective,
            samples.rollout_logprob_NT,
            samples.mask_NT,
            advantages,
            old_logprob_NT=logprobs.old_NT,
            rollout_logprob_NT=samples.rollout_logprob_NT,
            ref_logprob_NT=logprobs.ref_NT,
            group_N=samples.group_N,
            step_weights=weights,
        )
        return float(loss)

    def _of_reference(self, samples: Samples) -> torch.Tensor | None:
        if self.reference is None or "ref" not in self.config.objective.needs:
            return None
        config, device = self.config, self.policy_model.device
        scoring = Scoring(config.temperature, config.repetition_penalty, with_entropy=False)
        passes = self.policy_model.limits.passes(samples.rows, config.micro_batch_tokens)
        return score_in_passes(self.reference.score, samples.rows, scoring, passes, device)
