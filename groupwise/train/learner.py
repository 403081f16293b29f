"""Turns scored groups into optimizer steps.

Each rollout is used for `num_minibatches x num_iterations` optimizer steps. Weights of tokens are counted over a whole
optimizer step before its first micro-batch, so cutting it differently changes nothing but memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from groupwise.algo import Objective, StepWeights, policy_loss, step_weights
from groupwise.algo.advantage import moving_average
from groupwise.algo.stats import Max, Mean, Min, Stats, Sum
from groupwise.config import Settings
from groupwise.policy.out_of_memory import with_smaller_passes
from groupwise.policy.packing import CompletionRows, packed_tokens
from groupwise.policy.policy_model import PolicyModel, Scoring, TokenScores, completion_mask
from groupwise.policy.reference import Reference
from groupwise.train.advantages import step_advantages
from groupwise.train.alike import check_alike
from groupwise.train.batch import Batch, LogProbs, Samples
from groupwise.train.coefficients import Coefficients
from groupwise.train.first_logprobs import FirstLogProbs, Keep, keep_none
from groupwise.train.nonfinite import why_not_finite
from groupwise.train.own_loss import own_loss
from groupwise.world import World, portions

Progress = Callable[[int, int], None]
Score = Callable[[CompletionRows, Scoring], TokenScores]
_Result = TypeVar("_Result")


def score_in_passes(
    score: Score, rows: CompletionRows, scoring: Scoring, passes: Sequence[Sequence[int]], device: torch.device
) -> Tensor:
    """Log-probs NT of all rows, without gradient; 0 where no pass holds a row."""
    logprob_NT = torch.zeros(completion_mask(rows, device).shape, device=device)
    for part in passes:
        found = score(rows.select(part), scoring).logprob_NT
        logprob_NT[part[0] : part[-1] + 1, : found.shape[1]] = found
    return logprob_NT


@dataclass(frozen=True)
class Update:
    """What the optimizer steps of one rollout measured."""

    stats: dict[str, float | None]
    grad_norm: float
    """Before clipping; the mean over the rollout's optimizer steps."""
    learning_rate: float
    num_updates: int
    why_skipped: tuple[str | None, ...]
    """For each optimizer step why it was left out: its loss or gradient was not finite; None for one that was taken."""
    logprob_NT: Tensor | None = None
    """Of the step's completions, as the first pass over each computed them: NaN where there was none. None where the
    record does not read them."""

    @property
    def num_skipped(self) -> int:
        return sum(why is not None for why in self.why_skipped)


class Learner:
    """Owns optimizer and schedule; trains the parameters of `policy_model`."""

    def __init__(
        self,
        policy_model: PolicyModel,
        reference: Reference | None,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        config: Settings,
        reward_weights: Sequence[float] | None = None,
        loss: Callable[..., Any] | None = None,
        world: World | None = None,
    ) -> None:
        self._own_loss = loss
        self.world = world or World()
        self.policy_model = policy_model
        self.reference = reference
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.config = config
        self.objective: Objective = config.objective
        self.coefficients = Coefficients(config)
        self.reward_weights = reward_weights
        self.scoring = Scoring(
            temperature=config.temperature,
            repetition_penalty=config.repetition_penalty,
            entropy_gradient=self.coefficients.has_entropy_bonus,
        )
        self.trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self.reward_average: float | None = None
        self.num_rollouts = 0
        """Rollouts trained on."""
        self.on_progress: Progress = lambda done, total: None

    def score(self, samples: Samples) -> LogProbs:
        """Old and reference log-probs, each only where the objective needs it."""
        return self._within_memory(lambda: self._score_all(samples))

    def _score_all(self, samples: Samples) -> LogProbs:
        needs_old = "old" in self.objective.needs and (
            self.config.updates_per_step > 1 or self.objective.uses_kl_in_reward
        )
        old_NT = self._score(self.policy_model.score, samples.rows) if needs_old else None
        ref_NT = None
        if self.reference is not None and ("ref" in self.objective.needs or self._is_kl_measured):
            ref_NT = self._score(self.reference.score, samples.rows)
        return LogProbs(old_NT, ref_NT)

    @property
    def _is_kl_measured(self) -> bool:
        """Whether this rollout's KL to the reference is measured although the objective does not read it."""
        every = self.config.kl_metric_steps
        return every is not None and (self.num_rollouts + 1) % every == 0

    def _within_memory(self, work: Callable[[], _Result]) -> _Result:
        """See `with_smaller_passes`."""
        return with_smaller_passes(self.policy_model, work, may_repeat=self.world.size == 1)

    def _score(self, score: Score, rows: CompletionRows) -> Tensor:
        scoring = replace(self.scoring, with_entropy=False)
        passes = self._share(rows, self._passes(rows))
        logprob_NT = score_in_passes(score, rows, scoring, passes, self.policy_model.device)
        self.world.sum_([logprob_NT], "log-probs of all rows")
        return logprob_NT

    def _passes(self, rows: CompletionRows) -> list[list[int]]:
        """Row numbers of each pass, over all ranks."""
        return self.policy_model.limits.passes(rows, self.config.micro_batch_tokens, self.world.size)

    def _share(self, rows: CompletionRows, passes: Sequence[list[int]]) -> list[list[int]]:
        """The passes of this rank."""
        return self._shares(rows, passes)[self.world.rank]

    def _shares(self, rows: CompletionRows, passes: Sequence[list[int]]) -> list[list[list[int]]]:
        """The passes of each rank."""
        costs = [packed_tokens(rows, part) for part in passes]
        return [[passes[i] for i in numbers] for numbers in portions(costs, self.world.size)]

    def prepare(self, samples: Samples, logprobs: LogProbs) -> Batch:
        """The batch of the step: its samples with their log-probs and advantages."""
        start = self.reward_average
        if start is None:  # the first baseline is the first step's mean: 0 would be far from any reward
            start = float(samples.reward_N.nanmean())
        advantages = step_advantages(
            self.config, samples, logprobs, self.reward_weights, beta=self.coefficients.beta, ema_start=start
        )
        if self.objective.baseline == "ema":
            self.reward_average = moving_average(samples.reward_N, start, self.objective.ema_decay)
        return Batch.of(samples, logprobs, advantages.to(self.policy_model.device, torch.float32))

    def update(self, batch: Batch) -> Update:
        """Every optimizer step of the rollout."""
        rows_of_parts = self._minibatches(batch)
        parts = [batch.select(rows) for rows in rows_of_parts]
        first = FirstLogProbs(batch) if self._are_first_logprobs_kept(batch) else None
        stats: list[Stats] = []
        norms, skipped = [], []
        entropy = None if self._rows_with_gradient(batch) else self._entropy_of_a_few(batch)
        lr = float(self.scheduler.get_last_lr()[0])
        beta, entropy_coef = self.coefficients.beta, self.coefficients.entropy_coef
        for iteration in range(self.config.num_iterations):
            for number, part in enumerate(parts):
                entropy_coef = self.coefficients.entropy_coef
                keep = first.keeper(rows_of_parts[number]) if first is not None and iteration == 0 else keep_none
                measured, norm, why = self._optimizer_step(part, keep)
                is_sampled_from = not stats or part.old_logprob_NT is not None
                stats.append(measured if is_sampled_from else _without_mismatch(measured))
                norms.append(norm)
                skipped.append(why)
                if (iteration, number) != (self.config.num_iterations - 1, len(parts) - 1):
                    self.policy_model.refresh()
        merged = {"entropy": entropy, **Stats.merge_all(stats).floats()}
        for name in ("loss", "policy_loss", "kl_loss", "entropy_loss"):  # sums within a step, means over steps
            if (total := merged.get(name)) is not None:
                merged[name] = total / len(stats)
        check_alike(self.policy_model.model, self.world)
        self.coefficients.after_rollout(merged.get("kl"), len(batch))
        self.num_rollouts += 1
        merged |= {"beta": beta if "ref" in self.objective.needs else 0.0, "entropy_coef": entropy_coef}
        logprob_NT = None if first is None else first.of_all_ranks(self.world)
        return Update(merged, sum(norms) / len(norms), lr, len(norms), tuple(skipped), logprob_NT)

    def _are_first_logprobs_kept(self, batch: Batch) -> bool:
        """Whether the record of this rollout's tokens compares with the reference, and no old log-probs were scored."""
        is_due = self.config.are_tokens_recorded(self.num_rollouts + 1)
        return is_due and batch.ref_logprob_NT is not None and batch.old_logprob_NT is None

    def state_dict(self) -> dict[str, Any]:
        """What a run's course depends on beside weights, optimizer and schedule; plain JSON."""
        return {
            "reward_average": self.reward_average,
            "num_rollouts": self.num_rollouts,
            "coefficients": self.coefficients.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reward_average = state["reward_average"]
        self.num_rollouts = state["num_rollouts"]
        self.coefficients.load_state_dict(state["coefficients"])

    def _minibatches(self, batch: Batch) -> list[list[int]]:
        """Row numbers of each optimizer step: equally many whole groups."""
        runs = batch.rows.runs()
        size = -(-len(runs) // self.config.num_minibatches)
        return [[row for run in runs[i : i + size] for row in run] for i in range(0, len(runs), size)]

    def _optimizer_step(self, batch: Batch, keep: Keep = keep_none) -> tuple[Stats, float, str | None]:
        stats = self._within_memory(lambda: self._gradients(batch, keep))
        norm = self._sum_gradients()
        measured = self._merged(stats)
        why = why_not_finite(float(measured["loss"] or 0.0), float(norm), self._odd_gradients, batch)
        if why is None:  # else nothing moves: neither weights nor the optimizer's state nor the schedule
            nn.utils.clip_grads_with_norm_(self.trained, self.config.max_grad_norm or float("inf"), norm)
            self.optimizer.step()
            self.scheduler.step()
            if self.policy_model.sharded is not None:
                self.policy_model.sharded.spread()
            if self.coefficients.follows_entropy:
                self.coefficients.after_update(measured.floats().get("entropy"))
        return measured, float(norm), why

    def _gradients(self, batch: Batch, keep: Keep) -> list[Stats]:
        """The gradients of an optimizer step on this rank, and the measurements of its passes."""
        weights = self._step_weights(batch)
        for parameter in self.trained:  # a zero gradient moves momentum; a missing one would not
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
        rows = self._rows_with_gradient(batch)
        passes = [[rows[i] for i in part] for part in self._passes(batch.rows.select(rows))] if rows else []
        stats = [_stats_of_skipped(batch, weights, rows)] if self.world.is_leader else []
        shares = self._shares(batch.rows, passes)
        mine = shares[self.world.rank]
        for number, part in enumerate(mine):
            stats.append(self._backward(batch, weights, part, keep))
            self.on_progress(number + 1, len(mine))
        self._pad(batch, weights, shares)
        return stats

    def _pad(self, batch: Batch, weights: StepWeights, shares: Sequence[list[list[int]]]) -> None:
        """Bring this rank to as many passes as the others, where FSDP sums gradients within each: a short pass is
        repeated with weight 0."""
        if self.policy_model.sharded is None:
            return
        shortest = min((part for share in shares for part in share), key=len, default=[])
        for _ in range(max(map(len, shares)) - len(shares[self.world.rank])):
            self._backward(batch, weights, shortest, factor=0.0)

    def _sum_gradients(self) -> Tensor:
        """Sum the gradients over the ranks; their norm, the same on each."""
        gradients = [p.grad for p in self.trained if p.grad is not None]
        if self.policy_model.sharded is not None:
            return self.policy_model.sharded.norm(gradients)
        self.world.sum_(gradients, "the sum of the gradients")
        return nn.utils.get_total_norm(gradients)

    def _odd_gradients(self) -> tuple[list[str], int]:
        """Names of the weights whose gradient is not finite, and how many have one."""
        sharded = self.policy_model.sharded
        if sharded is not None:
            return sharded.odd_gradients()
        trained = {name: p.grad for name, p in self.policy_model.model.named_parameters() if p.grad is not None}
        return [name for name, grad in trained.items() if not bool(grad.isfinite().all())], len(trained)

    def _merged(self, stats: Sequence[Stats]) -> Stats:
        """The measurements of the passes of all ranks; of one rank they stay on its device."""
        merged = Stats.merge_all(stats)
        if self.world.size == 1:
            return merged
        return Stats.merge_all(self.world.gather(merged.on_host(), "the measurements of all passes"))

    @torch.no_grad()
    def _entropy_of_a_few(self, batch: Batch) -> float | None:
        """Mean entropy over the tokens of one completion a group, for a step that makes no pass; None without a token.

        A policy that has collapsed has no signal: its entropy is needed where nothing is learnt.
        """
        has_tokens = batch.mask_NT.any(dim=1).tolist()
        firsts = [next((row for row in run if has_tokens[row]), None) for run in batch.rows.runs()]
        rows = batch.rows.select([row for row in firsts if row is not None])
        if not len(rows):
            return None
        _, entropy_NT = self._forward(rows)
        return float(entropy_NT.sum() / completion_mask(rows, entropy_NT.device).sum())

    def _step_weights(self, batch: Batch) -> StepWeights:
        now = None
        if self.objective.needs_forward:
            now = self._forward(batch.rows)
        return step_weights(
            self.objective,
            batch.mask_NT,
            batch.group_N,
            batch.advantages,
            logprob_NT=None if now is None else now[0],
            old_logprob_NT=batch.old_logprob_NT,
            rollout_logprob_NT=batch.rollout_logprob_NT,
            entropy_NT=None if now is None else now[1],
            is_truncated_N=batch.is_truncated_N,
            generator=torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.scheduler.last_epoch),
        )

    def _forward(self, rows: CompletionRows) -> tuple[Tensor, Tensor]:
        """Current log-probs and entropies NT of the whole optimizer step, without gradient."""
        shape = completion_mask(rows, self.policy_model.device).shape
        logprob_NT, entropy_NT = (torch.zeros(shape, device=self.policy_model.device) for _ in range(2))
        for part in self._share(rows, self._passes(rows)):
            found = self.policy_model.score(rows.select(part), self.scoring)
            where = (slice(part[0], part[-1] + 1), slice(found.logprob_NT.shape[1]))
            logprob_NT[where], entropy_NT[where] = found.logprob_NT, found.entropy_NT
        self.world.sum_([logprob_NT, entropy_NT], "log-probs and entropies of all rows")
        return logprob_NT, entropy_NT

    def _rows_with_gradient(self, batch: Batch) -> list[int]:
        """Rows whose pass can change a gradient or measures a KL: those without advantage can often be skipped."""
        has_tokens = batch.mask_NT.any(dim=1)
        if self.objective.mask_truncated:
            has_tokens &= ~batch.is_truncated_N
        acts_without_advantage = self.objective.acts_without_advantage or self.coefficients.has_entropy_bonus
        acts_without_advantage |= self._own_loss is not None  # it may do anything
        if not acts_without_advantage and batch.ref_logprob_NT is None:
            has_tokens &= (batch.advantages != 0).view(len(batch), -1).any(dim=1)
        return [int(row) for row in has_tokens.nonzero()[:, 0]]

    def _backward(
        self, batch: Batch, weights: StepWeights, part: list[int], keep: Keep = keep_none, *, factor: float = 1.0
    ) -> Stats:
        """One pass with gradient; `factor` 0 leaves the gradients as they are."""
        rows = batch.select(part)
        width = rows.mask_NT.shape[1]
        with self.policy_model.pass_over(rows.rows, self.scoring) as scores:
            keep(part, scores.logprob_NT)
            arguments = {
                "old_logprob_NT": rows.old_logprob_NT,
                "rollout_logprob_NT": rows.rollout_logprob_NT,
                "ref_logprob_NT": rows.ref_logprob_NT,
                "entropy_NT": scores.entropy_NT,
                "group_N": rows.group_N,
                "step_weights": weights[torch.tensor(part, device=rows.mask_NT.device), :width],
                "beta": self.coefficients.beta,
                "entropy_coef": self.coefficients.entropy_coef,
            }
            given = (self.objective, scores.logprob_NT, rows.mask_NT, rows.advantages)
            loss: Tensor
            stats: Stats
            loss, stats = policy_loss(*given, **arguments)
            if self._own_loss is not None:
                loss, stats = own_loss(self._own_loss, stats, *given, **arguments)
            loss = loss if factor == 1.0 else loss * factor
            loss.backward()
        return stats


def _without_mismatch(measured: Stats) -> Stats:
    """Without the comparison of engine and learner: the weights have been updated since the engine sampled."""
    return Stats({name: stat for name, stat in measured.items() if not name.startswith("sampling/")})


def _stats_of_skipped(batch: Batch, weights: StepWeights, rows_passed: list[int]) -> Stats:
    """What rows without a pass add to the measurements: a loss of exactly 0, loss tokens of which none was clipped, and
    the tokens of truncated completions that are masked."""
    is_loss_NT = weights.weight_NT > 0
    num_tokens = int(is_loss_NT.sum()) - int(is_loss_NT[rows_passed].sum())
    num_masked = int(batch.mask_NT.sum()) - int(is_loss_NT.sum())
    stats = Stats({"loss": Sum(0.0), "policy_loss": Sum(0.0), "masked_ratio": Mean(num_masked, num_masked)})
    stats.update({f"clip_ratio/{side}_mean": Mean(0.0, num_tokens) for side in ("low", "high", "region")})
    if num_tokens:
        stats.update({"clip_ratio/low_min": Min(0.0), "clip_ratio/high_max": Max(0.0)})
    return stats
