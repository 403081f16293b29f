"""Before the first step: the learner must give the tokens the log-probs that the engine says it sampled them with.

Everything the loss makes of old and new probabilities rests on it, and no curve shows it. A model's packed pass and
engine are compared in float32 when it is loaded (`fastpath.py`); here the run's own engine and learner are compared, on
the shortest and the longest of its prompts and in the run's own precision. Guard `gap` then looks at every token of
every step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from groupwise.guards.monitor import Watch
from groupwise.policy.network import Network, Scoring
from groupwise.policy.packing import Rows
from groupwise.rollout.engine import Engine
from groupwise.rollout.plain import PlainEngine
from groupwise.train.batch import rows_of
from groupwise.train.collect import Collector
from groupwise.types import Group, Request

NUM_COMPLETIONS = 4
NUM_TOKENS = 8
"""Of each completion: 32 tokens tell the sides apart, and more would be felt at the start of a run."""
NUM_OF_LONGEST = 2
"""Completions of the longest prompt, whose prefill costs more than their tokens."""
NUM_PROMPTS = 64
"""The shortest and the longest of so many prompts are taken."""

Trial = tuple[str, Callable[[], float]]
"""A likely cause, and the gap that is left if it is the cause."""


def require_agreement(collector: Collector, network: Network, watch: Watch) -> None:
    """Let the guards judge how far engine and learner are apart.

    Raises:
        GuardError: too far to train.
    """
    if not collector.engine.capabilities.keeps_logprobs:
        return
    if network.dtype == torch.float32:
        _judge(("agreement",), collector, collector.engine, network, watch)
        return
    if network.compute is None and watch.is_on("agreement"):  # the fast path has been compared in float32 already
        exact = copy.deepcopy(network.model).float()
        slow = Network(exact, torch.float32, None)
        _judge(("agreement",), collector, PlainEngine(exact, torch.float32), slow, watch)
    _judge(("precision_limit", "precision"), collector, collector.engine, network, watch)


def _judge(names: tuple[str, ...], collector: Collector, engine: Engine, network: Network, watch: Watch) -> None:
    names = tuple(name for name in names if watch.is_on(name))
    if not names:
        return
    scoring = Scoring(collector.sampling.temperature, collector.sampling.repetition_penalty, with_entropy=False)
    gaps = [(gap(network, group, scoring), group) for group in _sample(collector, engine)]
    value, worst = max(gaps, key=lambda found: math.inf if math.isnan(found[0]) else found[0])
    for name in names:
        watch.start(name, value, lambda bound: likely_cause(network, worst, scoring, bound))


def _sample(collector: Collector, engine: Engine) -> list[Group]:
    """Short groups of real prompts, sampled as the recipe says: of the shortest, and of the longest if it is longer."""
    config, problems = collector.config, collector.problems
    ordered = sorted(
        (problems[row] for row in range(min(len(problems), NUM_PROMPTS))), key=lambda problem: len(problem.prompt_ids)
    )
    is_longer = len(ordered[-1].prompt_ids) > len(ordered[0].prompt_ids)
    chosen = [(ordered[0], NUM_COMPLETIONS), *([(ordered[-1], NUM_OF_LONGEST)] if is_longer else [])]
    sampling = replace(collector.sampling, max_tokens=min(NUM_TOKENS, config.max_completion_length), stop=())
    requests = [
        Request(
            prepared.prompt_ids,
            min(count, config.num_generations),
            sampling,
            (config.seed, 0),
            label=prepared.problem.label,
        )
        for prepared, count in chosen
    ]
    answers = dict(engine.generate(requests))
    return [
        Group(-1, prepared.problem, prepared.prompt_ids, tuple(answers[i])) for i, (prepared, _) in enumerate(chosen)
    ]


def gap(network: Network, group: Group, scoring: Scoring, rows: Rows | None = None) -> float:
    """Mean over tokens of exp |rollout_logprob - logprob|: 1 where both sides say the same."""
    logprob_NT = network.score(rows or rows_of([group]), scoring).logprob_NT.double().cpu()
    gaps = [
        (row[: len(c.rollout_logprob)] - torch.tensor(c.rollout_logprob, dtype=torch.float64)).abs()
        for row, c in zip(logprob_NT, group.completions, strict=True)
    ]
    return float(torch.cat(gaps).exp().mean())


def likely_cause(network: Network, group: Group, scoring: Scoring, bound: float) -> str:
    """The first explanation without which the two sides agree, in a sentence."""
    if any(x != x or abs(x) == float("inf") for c in group.completions for x in c.rollout_logprob):
        return "the engine's log-probs are not finite, so the weights hold NaN or overflow in this dtype."
    for sentence, gap_without in _trials(network, group, scoring):
        if gap_without() <= bound:
            return sentence
    return "the engine samples from other weights than the learner trains, or from another model."


def _trials(network: Network, group: Group, scoring: Scoring) -> Iterator[Trial]:
    rows = rows_of([group])
    if scoring.temperature != 1:
        plain = replace(scoring, temperature=1.0)
        yield "the engine's log-probs leave the temperature out.", lambda: gap(network, group, plain)
    if scoring.repetition_penalty != 1:
        free = replace(scoring, repetition_penalty=1.0)
        yield "the engine's log-probs leave the repetition penalty out.", lambda: gap(network, group, free)
    if rows.kept_ids is not None:
        whole = replace(rows, kept_ids=None)
        yield (
            "the engine's log-probs are of the whole vocabulary, not of what top_k, top_p or min_p keep.",
            lambda: gap(network, group, scoring, whole),
        )
    if hasattr(network.model, "peft_config"):
        yield "the engine samples without the adapter.", lambda: _gap_without_adapter(network, group, scoring)
    if network.compute is not None:
        slow = Network(network.model, network.dtype, None)
        yield (
            "the learner's packed pass differs from the model's own; engine: transformers leaves it out.",
            lambda: gap(slow, group, scoring),
        )


def _gap_without_adapter(network: Network, group: Group, scoring: Scoring) -> float:
    with network.adapters_off():
        return gap(network, group, scoring)
