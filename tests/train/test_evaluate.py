"""Evaluation: means over problems, their standard errors, and seeds of its own."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tiny import EOS, tiny_tokenizer

from groupwise.config import GRPOConfig
from groupwise.data import load_problems, prepare
from groupwise.lifecycle.evaluate import Evaluator
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.rollout.scripted import ScriptedEngine
from groupwise.train.sampler import GroupSampler
from groupwise.types import Request

TOKENIZER = tiny_tokenizer()
LENGTHS = {"p": (1, 3), "q": (2, 8), "r": (4, 4)}
"""Letters that the sampled completions of each problem have; the greedy one has 6."""
asked: list[Request] = []


def script(request: Request, index: int) -> list[int]:
    asked.append(request)
    prompt = TOKENIZER.decode(list(request.prompt_ids))
    number = 6 if request.sampling.temperature == 0 else LENGTHS[prompt][index]
    return [*TOKENIZER.encode("a" * number), EOS]


def letters(completions: list[str], **columns: Any) -> list[float]:
    return [float(len(completion)) for completion in completions]


def at_most_four(completions: list[str], **columns: Any) -> list[float | None]:
    return [None if len(completion) > 4 else 1.0 for completion in completions]


def evaluate(rewards: Any, **settings: Any) -> dict[str, float | None]:
    asked.clear()
    config = GRPOConfig(num_generations=2, temperature=0.9, top_k=5, seed=3, **settings).settings
    problems = prepare(load_problems([{"prompt": p} for p in LENGTHS]), TOKENIZER)
    scorer = RewardScorer(resolve_rewards(rewards))
    sampler = GroupSampler.of(ScriptedEngine(script), problems, config, TOKENIZER, (EOS,))
    return Evaluator(sampler, scorer, config).evaluate().metrics


def test_the_error_is_that_of_the_mean_over_problems():
    metrics = evaluate(letters)
    means = [2.0, 5.0, 4.0]
    mean = sum(means) / 3
    error = math.sqrt(sum((m - mean) ** 2 for m in means) / 2) / math.sqrt(3)
    assert metrics["eval_reward"] == pytest.approx(mean)
    assert metrics["eval_reward_stderr"] == pytest.approx(error)
    assert metrics["eval_greedy_reward"] == 6.0
    assert metrics["eval_greedy_reward_stderr"] == 0.0
    assert metrics["eval_rewards/letters/mean"] == pytest.approx(22 / 6)
    assert metrics["eval_completions/mean_length"] == pytest.approx(22 / 6 + 1)  # and the end token
    assert metrics["time/eval"] > 0


def test_what_could_not_be_judged_is_left_out():
    metrics = evaluate([letters, at_most_four])
    assert metrics["eval_rewards/at_most_four/mean"] == 1.0
    only = evaluate(at_most_four)
    assert (only["eval_reward"], only["eval_reward_stderr"]) == (1.0, 0.0)
    assert (only["eval_greedy_reward"], only["eval_greedy_reward_stderr"]) == (None, None)


def test_one_problem_has_a_mean_and_no_error():
    metrics = evaluate(letters, num_eval_problems=1)
    assert (metrics["eval_reward"], metrics["eval_reward_stderr"]) == (2.0, None)


def test_greedy_is_unrestricted_and_every_evaluation_asks_the_same():
    evaluate(letters, num_generations_eval=1)
    sampled, greedy = asked[:3], asked[3:]
    assert all(r.sampling.temperature == 0.9 and r.sampling.top_k == 5 for r in sampled)
    assert all(r.sampling.temperature == 0 and not r.sampling.is_filtered for r in greedy)
    assert [r.num_completions for r in asked] == [1] * 6
    first = [(r.prompt_ids, r.seed) for r in asked]
    evaluate(letters, num_generations_eval=1)
    assert [(r.prompt_ids, r.seed) for r in asked] == first
    assert len({r.seed for r in sampled}) == 3
    assert all(r.seed[1] >= 1 << 31 for r in asked), "no step has this number: streams of rollouts are not shared"
