"""Collecting: which problems are drawn, asked, scored and dropped. The engine recites, so every reward is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tiny import EOS, tiny_tokenizer

from groupwise.config import GRPOConfig
from groupwise.data import Order, load_problems, prepare
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.rollout.scripted import ScriptedEngine
from groupwise.train.collect import Collector
from groupwise.train.sampler import GroupSampler
from groupwise.types import Request

TOKENIZER = tiny_tokenizer()
G = 3


def a_count(completions: list[str], **columns: Any) -> list[float]:
    return [float(completion.count("a")) for completion in completions]


def say_as(request: Request, index: int) -> list[int]:
    """Prompts that begin with "e" get different answers, all others get equal ones: those have no signal."""
    text = "a" * (index if TOKENIZER.decode(list(request.prompt_ids)).startswith("e") else 2)
    return [*TOKENIZER.encode(text), EOS]


def make_collector(
    prompts: list[str], script: Callable[[Request, int], list[int]] = say_as, **settings: Any
) -> Collector:
    config = GRPOConfig(
        **{"prompts_per_step": 4, "num_generations": G, "seed": 7, "shuffle_dataset": False} | settings
    ).settings
    problems = prepare(load_problems([{"prompt": p} for p in prompts]), TOKENIZER, max_prompt_length=5)
    order = Order(len(problems), config.prompts_per_step, config.seed, config.shuffle_dataset)
    sampler = GroupSampler.of(ScriptedEngine(script), problems, config, TOKENIZER, (EOS,))
    return Collector(order, sampler, RewardScorer(resolve_rewards(a_count)), config)


MIXED = ["e0", "x1", "x2", "e3", "x4", "e5", "x6", "e7", "e8", "e9"]
"""Rows in the order they are drawn."""


def rows(groups: list[Any]) -> list[int]:
    return [g.problem.index for g in groups]


def test_a_group_is_its_problem_its_completions_and_their_rewards():
    collected = make_collector(MIXED).collect(1)
    assert rows(collected.groups) == [0, 1, 2, 3]
    assert [g.draw for g in collected.groups] == [0, 1, 2, 3]
    for group in collected.groups:
        assert group.prompt_ids == tuple(TOKENIZER.encode(group.problem.prompt))
        assert group.reward == tuple(float(c.text.count("a")) for c in group.completions)
        assert all(c.token_ids[-1] == EOS and not c.text.endswith("<eos>") for c in group.completions)
    assert [g.has_signal for g in collected.groups] == [True, False, False, True]
    assert collected.dropped == ()


def test_requests_carry_seed_step_and_draw():
    asked: list[Request] = []

    def script(request: Request, index: int) -> list[int]:
        asked.append(request)
        return [EOS]

    collector = make_collector(MIXED, script, temperature=0.7, top_k=3, max_completion_length=9, stop=["b"])
    collector.collect(1)
    collector.collect(2)
    assert [r.seed for r in asked[::G]] == [(7, 1, n) for n in range(4)] + [(7, 2, n) for n in range(4, 8)]
    sampling = asked[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.max_tokens) == (0.7, 3, 9)
    assert (sampling.stop, sampling.stop_ids) == (("b",), (EOS,))
    assert asked[0].decode(TOKENIZER.encode("ab")) == "ab"


def test_without_dynamic_sampling_a_group_without_signal_stays():
    collected = make_collector(["x"] * 6).collect(1)
    assert len(collected.groups) == 4
    assert not any(g.has_signal for g in collected.groups)


def test_dynamic_sampling_draws_again_for_groups_without_signal():
    collector = make_collector(MIXED, dynamic_sampling=True)
    collected = collector.collect(1)
    # 0-3 hold two signals; for the two others 4, 5 are drawn; for the one still missing 6; then 7
    assert sorted(rows(collected.groups)) == [0, 3, 5, 7]
    assert sorted(rows(collected.dropped)) == [1, 2, 4, 6]
    assert all(g.has_signal for g in collected.groups)
    assert not any(g.has_signal for g in collected.dropped)
    draws = Counter(g.draw for g in collected.all_groups)
    assert draws == Counter(range(8)), "every draw is recorded once"
    assert rows(collector.collect(2).groups)[:2] == [8, 9], "what was drawn is not drawn again"


def test_dynamic_sampling_ends_at_its_limit_and_keeps_the_step_full():
    collected = make_collector(["x"] * 40, dynamic_sampling=True, dynamic_sampling_max_draws=3).collect(1)
    assert len(collected.groups) == 4
    assert len(collected.dropped) == 8
    assert len(set(rows(collected.all_groups))) == 12


def test_dynamic_sampling_draws_no_row_twice_in_a_step():
    collected = make_collector(["e0", "x1", "x2", "x3", "x4"], dynamic_sampling=True).collect(1)
    assert len(collected.groups) == 4
    assert sorted(rows(collected.all_groups)) == [0, 1, 2, 3, 4]


def test_cut_prompts_are_counted_by_the_step_that_drew_them():
    collector = make_collector(["e", "e too long", "e", "also too long", "e"])
    assert collector.collect(1).num_truncated_prompts == 2
    assert collector.collect(2).num_truncated_prompts == 1  # e, e, then one long one, by the order's chain


@pytest.mark.parametrize("is_dynamic", [False, True])
def test_costs_are_summed_over_all_draws(is_dynamic):
    collected = make_collector(MIXED, dynamic_sampling=is_dynamic).collect(1)
    assert set(collected.function_s) == {"a_count"}
    assert 0 < collected.function_s["a_count"] <= collected.reward_s


def test_progress_counts_completions():
    seen = []
    collector = make_collector(MIXED)
    collector.on_progress = lambda *progress: seen.append(progress)
    collector.collect(1)
    assert seen == [("rollout", n, 12) for n in (0, 3, 6, 9, 12)] + [("reward", 0, 4)]
