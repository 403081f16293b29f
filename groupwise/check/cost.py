"""Estimates time and memory of a step and of the run: one learner pass over the sampled groups changes no weight."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch.optim.lr_scheduler import LambdaLR

from groupwise.check.sample import Sampled
from groupwise.config import Settings, replaced
from groupwise.config.guards import BY_NAME, Guard, GuardSetting
from groupwise.guards.agreement import likely_cause
from groupwise.lifecycle.build import RunParts, make_learner
from groupwise.lifecycle.memory_plan import MOMENTS
from groupwise.policy.load_model import count_parameters
from groupwise.policy.policy_model import Scoring
from groupwise.runs.token_record import num_bytes
from groupwise.train.batch import Batch, Samples
from groupwise.train.learner import Learner
from groupwise.train.optim import make_optimizer
from groupwise.train.schedule import Schedule
from groupwise.types import Group
from groupwise.world import peak_memory_bytes

RECORD_BYTES, TOKEN_BYTES = 300, 10
"""About what a completion, beside its text, and each of its tokens take in the records."""
FEW = 4
"""Completions of the group in which the cause of a disagreement is looked for."""


@dataclass(frozen=True)
class Cost:
    """Seconds are estimates, from one pass each."""

    rollout_s: float
    """Of a step."""
    reward_s: float
    learn_s: float
    num_steps: int
    eval_s: float
    """Of one evaluation; 0 without held-out problems."""
    num_evals: int
    memory_bytes: int | None
    """The most that was used up to the end of the learner pass, optimizer state included."""
    memory_total_bytes: int | None
    mismatch: float | None
    """Mean over tokens of exp |rollout_logprob - logprob| before the first step: 1 where they are equal."""
    mismatch_limit: float | None
    """From which on a guard of the run acts; None where these guards are off."""
    why_skipped: str | None
    """Why the update would have to be left out: not finite; None for one that could be taken."""
    token_record_bytes: int
    """Of the per-token record of a step that has one."""
    num_token_records: int
    num_tokens: int = 0
    """Sampled in the whole run, at the length of the completions of the check."""
    disk_bytes: int = 0
    """Of the run folder: records, the checkpoints that are kept, and the model."""

    @property
    def step_s(self) -> float:
        return self.rollout_s + self.reward_s + self.learn_s

    @property
    def total_s(self) -> float:
        """Of the whole run, without saving."""
        return self.num_steps * self.step_s + self.num_evals * self.eval_s

    @property
    def as_plan(self) -> dict[str, float | None]:
        """The numbers that the run is compared with when it ends."""
        names = ("rollout_s", "reward_s", "learn_s", "step_s", "eval_s", "total_s", "num_steps", "memory_bytes")
        return {name: getattr(self, name) for name in names}


def measure_cost(run: RunParts, sampled: Sampled) -> Cost:
    """Run the learner over one step's groups with learning rate 0; weights stay as they are, bit for bit."""
    config = run.config
    groups = sampled.groups[: config.prompts_per_step]
    scale = config.prompts_per_step / len(groups)
    schedule = run.schedule()
    learner = _learner_at_rest(run, schedule)
    begun = perf_counter()
    samples = Samples.of(groups, run.policy.policy_model.device)
    batch = _with_some_advantage(learner.prepare(samples, learner.score(samples)))
    update = learner.update(batch)
    learn_s = (perf_counter() - begun) * scale
    device = run.policy.policy_model.device
    return Cost(
        rollout_s=sampled.rollout_s,
        reward_s=sampled.reward_s * config.completions_per_step / sampled.num_completions,
        learn_s=learn_s,
        num_steps=schedule.num_steps,
        eval_s=_eval_seconds(run, sampled),
        num_evals=_num_evals(config, schedule) if run.inputs.eval_problems is not None else 0,
        memory_bytes=peak_memory_bytes(device),
        memory_total_bytes=memory_total_bytes(device),
        mismatch=update.stats.get("sampling/mismatch") if run.engine.capabilities.keeps_logprobs else None,
        mismatch_limit=mismatch_limit(run),
        why_skipped=next((why for why in update.why_skipped if why is not None), None),
        token_record_bytes=round(scale * _token_record_bytes(batch)),
        num_token_records=sum(map(config.are_tokens_recorded, range(1, schedule.num_steps + 1))),
        num_tokens=round(schedule.num_steps * _tokens_of_step(config, sampled)),
        disk_bytes=_disk_bytes(run, sampled, schedule),
    )


def _token_record_bytes(batch: Batch) -> int:
    """Of the completions of this batch."""
    has_ref, is_by_token = batch.ref_logprob_NT is not None, batch.advantages.dim() == 2
    return num_bytes(len(batch), int(batch.mask_NT.sum()), num_arrays=1 + has_ref + is_by_token)


def _tokens_of_step(config: Settings, sampled: Sampled) -> float:
    completions = [c for group in sampled.groups for c in group.completions]
    return sum(len(c.token_ids) for c in completions) * config.completions_per_step / len(completions)


def _disk_bytes(run: RunParts, sampled: Sampled, schedule: Schedule) -> int:
    """Records of all steps, the weights at the end, and each checkpoint that is kept, with the optimizer's state."""
    config = run.config
    weights = 4 * count_parameters(run.policy.model).trainable
    steps = range(1, schedule.num_steps + 1)
    saved = sum(schedule.is_due(step, config.save_steps, config.save_strategy) for step in steps)
    kept = min(saved, config.save_total_limit or saved)
    texts = sum(len(c.text.encode()) + RECORD_BYTES for group in sampled.groups for c in group.completions)
    records = texts * config.completions_per_step / sampled.num_completions
    records += TOKEN_BYTES * _tokens_of_step(config, sampled)
    of_checkpoint = weights * (4 + MOMENTS[config.optim]) // 4
    return round(schedule.num_steps * records) + kept * of_checkpoint + weights


def guards_of_mismatch(run: RunParts) -> list[tuple[Guard, GuardSetting]]:
    """The guards that compare engine and learner in the run's precision, the one that stops it first."""
    is_exact = run.policy.policy_model.dtype == torch.float32
    names = ("agreement",) if is_exact else ("precision_limit", "precision")
    settings = run.config.guards
    return [(BY_NAME[name], settings[name]) for name in names if settings[name].action != "off"]


def mismatch_limit(run: RunParts) -> float | None:
    """The lowest mismatch at which such a guard acts."""
    return min((setting.threshold for _, setting in guards_of_mismatch(run)), default=None)


def _learner_at_rest(run: RunParts, schedule: Schedule) -> Learner:
    """The run's own learner and optimizer, whose steps have length 0."""
    optimizer, _ = make_optimizer(replaced(run.config, learning_rate=0.0), run.policy.policy_model)
    learner, _ = make_learner(run, schedule, (optimizer, LambdaLR(optimizer, lambda update: 1.0)))
    return learner


def _with_some_advantage(batch: Batch) -> Batch:
    """Where no group has signal, the learner would have nothing to pass over: its time is measured all the same."""
    return batch if bool(batch.advantages.any()) else replace(batch, advantages=torch.ones_like(batch.advantages))


def _num_evals(config: Settings, schedule: Schedule) -> int:
    steps = range(1, schedule.num_steps + 1)
    due = sum(schedule.is_due(step, config.eval_steps, config.eval_strategy) for step in steps)
    return due + bool(config.eval_on_start)


def _eval_seconds(run: RunParts, sampled: Sampled) -> float:
    """Sampled and greedy completions of the held-out problems, at the speed of a step's rollout."""
    config, held_out = run.config, run.inputs.eval_problems
    if held_out is None:
        return 0.0
    problems = min(len(held_out), config.num_eval_problems or len(held_out))
    completions = problems * (1 + (config.num_generations_eval or config.num_generations))
    return sampled.rollout_s * completions / config.completions_per_step


def memory_total_bytes(device: torch.device) -> int | None:
    """Memory of the GPU, or of the machine; None where the system does not report it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf, some systems not these names
        return None


def cause_of_gap(run: RunParts, groups: Sequence[Group], bound: float) -> str:
    """Why engine and learner differ, looked for in a few completions."""
    config, group = run.config, groups[0]
    few = replace(group, completions=group.completions[:FEW])
    scoring = Scoring(config.temperature, config.repetition_penalty, with_entropy=False)
    return likely_cause(run.policy.policy_model, few, scoring, bound)
