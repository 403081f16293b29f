"""Before the first step: engine and learner must give the sampled tokens the same log-probs.

Everything the loss makes of old and new probabilities rests on it, and no curve shows it. A model's packed pass and
engine are compared in float32 when it is loaded (`rollout/fastpath.py`); here the run's own engine and learner are
compared, on the shortest and the longest of its prompts and in the run's own precision. Guard `gap` then checks every
token of every step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from groupwise.data.order import Draw
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.rollout.plain import PlainEngine
from groupwise.train.batch import rows_of
from groupwise.train.sampler import PROBE, GroupSampler
from groupwise.types import Group

NUM_COMPLETIONS = 4
NUM_TOKENS = 8
"""Of each completion: 32 tokens show a disagreement, and more would delay the start of a run."""
NUM_OF_LONGEST = 2
"""Completions of the longest prompt, whose prefill costs more than their tokens."""
NUM_PROMPTS = 64
"""The shortest and the longest of so many prompts are taken."""

Trial = tuple[str, Callable[[], float]]
"""A likely cause, and the gap that is left if it is the cause."""


class Monitor(Protocol):
    """What checks a value measured before the first step."""

    def is_on(self, name: str) -> bool: ...

    def check_start(self, name: str, value: float, cause: Callable[[float], str]) -> None: ...


@dataclass(frozen=True)
class AgreementProbe:
    """What samples and what scores, in the run that is about to start."""

    sampler: GroupSampler
    policy_model: PolicyModel
    num_generations: int

    @property
    def scoring(self) -> Scoring:
        sampling = self.sampler.sampling
        return Scoring(sampling.temperature, sampling.repetition_penalty, with_entropy=False)


def require_agreement(probe: AgreementProbe, monitor: Monitor) -> None:
    """Let the guards check how far the log-probs of engine and learner are apart.

    Raises:
        GuardError: too far to train.
    """
    engine, policy_model = probe.sampler.engine, probe.policy_model
    if not engine.capabilities.keeps_logprobs:
        return
    if policy_model.dtype == torch.float32 and engine.capabilities.is_float32:
        _check(("agreement",), probe, monitor)
        return
    is_compared = policy_model.fused is not None or policy_model.dtype == torch.float32
    if not is_compared and monitor.is_on("agreement"):  # the fast path has been compared in float32 already
        exact = copy.deepcopy(policy_model.model).float()
        sampler = replace(probe.sampler, engine=PlainEngine(exact, torch.float32))
        _check(
            ("agreement",),
            replace(probe, sampler=sampler, policy_model=PolicyModel(exact, torch.float32, None)),
            monitor,
        )
    _check(("precision_limit", "precision"), probe, monitor)


def _check(names: tuple[str, ...], probe: AgreementProbe, monitor: Monitor) -> None:
    names = tuple(name for name in names if monitor.is_on(name))
    if not names:
        return
    gaps = [(gap(probe.policy_model, group, probe.scoring), group) for group in _sample(probe)]
    value, worst = max(gaps, key=lambda found: math.inf if math.isnan(found[0]) else found[0])
    for name in names:
        monitor.check_start(name, value, lambda bound: likely_cause(probe.policy_model, worst, probe.scoring, bound))


def _sample(probe: AgreementProbe) -> list[Group]:
    """Short groups of real prompts, sampled as in training: of the shortest, and of the longest if it is longer."""
    problems, sampling = probe.sampler.problems, probe.sampler.sampling
    ordered = sorted(range(min(len(problems), NUM_PROMPTS)), key=lambda row: len(problems[row].prompt_ids))
    shortest, longest = ordered[0], ordered[-1]
    is_longer = len(problems[longest].prompt_ids) > len(problems[shortest].prompt_ids)
    chosen = [(shortest, NUM_COMPLETIONS), *([(longest, NUM_OF_LONGEST)] if is_longer else [])]
    short = replace(sampling, max_tokens=min(NUM_TOKENS, sampling.max_tokens), stop=())
    sampler = replace(probe.sampler, sampling=short)
    draws = [Draw(number, row) for number, (row, _) in enumerate(chosen)]
    counts = [min(count, probe.num_generations) for _, count in chosen]
    requests = [r for draw, count in zip(draws, counts, strict=True) for r in sampler.requests([draw], count, PROBE)]
    return sampler.answer(draws, requests)


def gap(policy_model: PolicyModel, group: Group, scoring: Scoring, rows: CompletionRows | None = None) -> float:
    """Mean over tokens of exp |rollout_logprob - logprob|: 1 where both agree."""
    logprob_NT = policy_model.score(rows or rows_of([group]), scoring).logprob_NT.double().cpu()
    gaps = [
        (row[: len(c.rollout_logprob)] - torch.tensor(c.rollout_logprob, dtype=torch.float64)).abs()
        for row, c in zip(logprob_NT, group.completions, strict=True)
    ]
    return float(torch.cat(gaps).exp().mean())


def likely_cause(policy_model: PolicyModel, group: Group, scoring: Scoring, bound: float) -> str:
    """The first explanation without which the two sides agree, in a sentence."""
    if any(x != x or abs(x) == float("inf") for c in group.completions for x in c.rollout_logprob):
        return "the engine's log-probs are not finite, so the weights hold NaN or overflow in this dtype."
    for sentence, gap_without in _trials(policy_model, group, scoring):
        if gap_without() <= bound:
            return sentence
    return "the engine samples from other weights than the learner trains, or from another model."


def _trials(policy_model: PolicyModel, group: Group, scoring: Scoring) -> Iterator[Trial]:
    rows = rows_of([group])
    if scoring.temperature != 1:
        plain = replace(scoring, temperature=1.0)
        yield "the engine's log-probs leave the temperature out.", lambda: gap(policy_model, group, plain)
    if scoring.repetition_penalty != 1:
        free = replace(scoring, repetition_penalty=1.0)
        yield "the engine's log-probs leave the repetition penalty out.", lambda: gap(policy_model, group, free)
    if rows.kept_ids is not None:
        whole = replace(rows, kept_ids=None)
        yield (
            "the engine's log-probs are of the whole vocabulary, not of what top_k, top_p or min_p keep.",
            lambda: gap(policy_model, group, scoring, whole),
        )
    if hasattr(policy_model.model, "peft_config"):
        yield "the engine samples without the adapter.", lambda: _gap_without_adapter(policy_model, group, scoring)
    if policy_model.fused is not None:
        slow = PolicyModel(policy_model.model, policy_model.dtype, None)
        yield (
            "the learner's packed pass differs from the model's own; engine: transformers leaves it out.",
            lambda: gap(slow, group, scoring),
        )


def _gap_without_adapter(policy_model: PolicyModel, group: Group, scoring: Scoring) -> float:
    with policy_model.adapters_off():
        return gap(policy_model, group, scoring)
