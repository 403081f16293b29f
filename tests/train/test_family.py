"""What stands beside the loss, through the learner and the collector: steps, coefficients, baselines, shaping."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from api_helpers import trainer
from scored import samples
from tiny import EOS, tiny_model

from groupwise.algo import AdaptiveKL, advantages, overlong_penalty, process_advantages
from groupwise.config import GRPOConfig
from groupwise.data import Order, load_problems, prepare
from groupwise.errors import ConfigError
from groupwise.lifecycle.build import make_scorer
from groupwise.lifecycle.inputs import RunInputs
from groupwise.rewards import resolve_rewards
from groupwise.rewards.signal import has_signal, weighted_steps
from groupwise.rollout.scripted import ScriptedEngine
from groupwise.rounding import differ
from groupwise.runs.metrics import unknown_keys
from groupwise.runs.reader import RunReader
from groupwise.train.batch import LogProbs
from groupwise.train.coefficients import Coefficients
from groupwise.train.collect import Collector
from groupwise.train.overlong import with_overlong_penalty
from groupwise.train.sampler import GroupSampler
from groupwise.types import Request, ScoredGroup

from .test_collect import MIXED, TOKENIZER, a_count, say_as
from .test_learner import REWARDS, as_groups, assert_same, examples, gradients, make_learner


def with_steps(groups: list[ScoredGroup], steps_of: Callable[[int, float], Any]) -> list[ScoredGroup]:
    """The groups with the steps that `steps_of` makes of a completion's length and reward."""
    return [
        replace(
            g, steps={"f": tuple(steps_of(len(c.token_ids), r) for c, r in zip(g.completions, g.reward, strict=True))}
        )
        for g in groups
    ]


def test_one_step_at_the_end_is_outcome_supervision():
    groups = as_groups(examples())
    outcome = make_learner(tiny_model()).prepare(samples(groups), LogProbs())
    expected = outcome.advantages[:, None] * outcome.mask_NT
    for scored in (groups, with_steps(groups, lambda length, reward: ((length, reward),))):
        found = make_learner(tiny_model(), objective="grpo_process").prepare(samples(scored), LogProbs())
        torch.testing.assert_close(found.advantages, expected, rtol=0, atol=1e-6)


def test_steps_are_normalised_over_the_group_and_summed_from_each_token_on():
    groups = with_steps(as_groups(examples()), lambda length, reward: ((1, 2 * reward), (length, None), (length, -1.0)))
    learner = make_learner(tiny_model(), objective="grpo_process")
    learner.reward_weights = [3.0]
    batch = learner.prepare(samples(groups), LogProbs())
    lengths = [int(n) for n in batch.mask_NT.sum(1)]
    rewards = [[6 * r, None, -3.0] for values in REWARDS for r in values]
    by_hand = process_advantages([[1, n, n] for n in lengths], rewards, batch.group_N, lengths)
    torch.testing.assert_close(batch.advantages, by_hand.float(), rtol=0, atol=1e-6)
    assert float((batch.advantages[0, 0] - batch.advantages[0, 1]).abs()) > 0.1, "the first step pays its own tokens"


def test_process_supervision_trains_from_a_reward_function_that_returns_steps(tmp_path):
    def halves(completion_ids: list[list[int]]) -> list[Any]:
        return [[(max(len(ids) // 2, 1), float(ids[0] % 5)), (len(ids), float(ids[-1] % 3))] for ids in completion_ids]

    grpo = trainer(tmp_path, rewards=halves, objective="grpo_process", num_generations=3, num_minibatches=2)
    before = [p.detach().clone() for p in grpo.model.parameters()]
    grpo.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, grpo.model.parameters(), strict=True))
    for group in RunReader(tmp_path).completions(1):
        for c in group["completions"]:
            assert c["reward"] == c["rewards"]["halves"] == c["ids"][0] % 5 + c["ids"][-1] % 3
    assert [unknown_keys(m) for m in RunReader(tmp_path).metrics()] == [[], []]


def test_beta_follows_the_kl_and_is_what_the_next_loss_takes():
    groups = as_groups(examples())
    learner = make_learner(tiny_model(), beta=0.5, kl_target=0.1, kl_horizon=160)
    by_hand, used, losses = AdaptiveKL(0.5, 0.1, 160), [], []
    for _ in range(3):
        scores = LogProbs(ref_NT=torch.full((16, 9), -1.0))
        stats = learner.update(learner.prepare(samples(groups), scores)).stats
        assert stats["beta"] == by_hand.coefficient
        used.append(stats["beta"])
        losses.append(stats["kl_loss"])
        by_hand = by_hand.update(stats["kl"], 16)
    assert losses == pytest.approx([losses[0], losses[0] * 1.02, losses[0] * 1.02**2], rel=1e-5)
    assert used == pytest.approx([0.5, 0.5 * 1.02, 0.5 * 1.02**2])


def test_the_entropy_coefficient_rises_below_its_target_and_acts_there_alone():
    settings = {"use_adaptive_entropy": True, "entropy_coef_delta": 0.25, "entropy_coef_max": 0.4}
    for target, expected in ((100.0, [0.0, 0.25, 0.4, 0.4]), (0.0, [0.0] * 4)):
        learner = make_learner(tiny_model(), entropy_target=target, **settings)
        batch = learner.prepare(samples(as_groups(examples(((2.0,) * 4,) * 4))), LogProbs())
        updates = [learner.update(batch).stats for _ in range(4)]
        assert [u["entropy_coef"] for u in updates] == expected
        for u in updates:
            entropy_loss = u.get("entropy_loss") or 0.0
            assert entropy_loss == pytest.approx(-u["entropy_coef"] * u["entropy"], rel=1e-5)


def test_coefficients_go_on_where_a_checkpoint_was():
    config = GRPOConfig(kl_target=0.1, use_adaptive_entropy=True, entropy_target=1.0).settings
    one, other = Coefficients(config), Coefficients(config)
    for kl, entropy in ((0.5, 0.2), (0.01, 0.3)):
        one.after_rollout(kl, 500)
        one.after_update(entropy)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert (other.beta, other.entropy_coef) == (one.beta, one.entropy_coef) == (pytest.approx(0.04 * 1.01 * 0.99), 0.01)
    one.after_update(None)
    one.after_rollout(None, 500)
    assert one.state_dict() == other.state_dict(), "what was not measured steers nothing"


def collect(rewards: Any, say: Callable[[Request, int], list[int]] = say_as, **settings: Any) -> Any:
    config = GRPOConfig(**{"prompts_per_step": 4, "num_generations": 3, "shuffle_dataset": False} | settings).settings
    problems = prepare(load_problems([{"prompt": p} for p in MIXED]), TOKENIZER, max_prompt_length=5)
    order = Order(len(problems), 4, 0, False)
    sampler = GroupSampler.of(ScriptedEngine(say), problems, config, TOKENIZER, (EOS,))
    inputs = RunInputs(config, problems.problems, None, resolve_rewards(rewards), None)
    scorer = with_overlong_penalty(make_scorer(inputs), config)
    return Collector(order, sampler, scorer, config).collect(1)


def test_the_greedy_completion_of_each_problem_is_its_baseline():
    asked: list[Request] = []

    def say(request: Request, index: int) -> list[int]:
        asked.append(request)
        if request.sampling.temperature == 0:
            return [*TOKENIZER.encode("a" * (len(asked) % 3)), EOS]
        return say_as(request, index)

    groups = collect(a_count, say, objective="remax", beta=0.0).groups
    greedy = [r for r in asked if r.sampling.temperature == 0]
    assert [r.prompt_ids for r in greedy] == [g.prompt_ids for g in groups]
    assert [r.num_completions for r in greedy] == [1] * 4
    assert len({g.greedy_reward for g in groups}) > 1
    learner = make_learner(tiny_model(), objective="remax", beta=0.0)
    found = learner.prepare(samples(groups), LogProbs())
    rewards = [r for g in groups for r in g.reward]
    by_hand = advantages(rewards, found.group_N, "greedy", "none",
                         greedy_reward_N=[g.greedy_reward for g in groups for _ in g.reward])  # fmt: skip
    assert found.advantages.tolist() == by_hand.tolist()
    asked.clear()
    collect(a_count, say)
    assert all(r.sampling.temperature for r in asked), "no greedy rollout where nothing compares with it"


@pytest.mark.parametrize("preset", ["rae", "passk", "grpo_passk"])
def test_other_baselines_are_reached_by_their_name(preset):
    learner = make_learner(tiny_model(), objective=preset)
    objective = learner.objective
    found = learner.prepare(samples(as_groups(examples())), LogProbs())
    start = torch.tensor(REWARDS, dtype=torch.float64).mean().item()
    by_hand = advantages(torch.tensor(REWARDS, dtype=torch.float64).flatten(), found.group_N, objective.baseline,
                         objective.scale, k=objective.pass_k, ema_start=start)  # fmt: skip
    torch.testing.assert_close(found.advantages, by_hand.float(), rtol=0, atol=1e-6)


def test_the_soft_overlong_punishment_is_a_reward_with_its_own_column():
    settings = {"max_completion_length": 4, "overlong_cache": 0.5}
    plain, punished = collect(a_count), collect(a_count, **settings)
    for before, after in zip(plain.groups, punished.groups, strict=True):
        penalties = overlong_penalty([len(c.token_ids) for c in after.completions], 4, 2).tolist()
        assert after.rewards["overlong"] == tuple(penalties)
        assert after.reward == tuple(r + p for r, p in zip(before.reward, penalties, strict=True))
    assert {p for g in punished.groups for p in g.rewards["overlong"]} == {0.0, -0.5}


def test_functions_that_tie_in_the_sum_are_signal_where_each_is_normalised():
    def right(completions: list[str]) -> list[float]:
        return [float(len(c)) for c in completions]

    def wrong(completions: list[str]) -> list[float]:
        return [-float(len(c)) for c in completions]

    assert collect([right, wrong], dynamic_sampling=True).dropped
    kept = collect([right, wrong], dynamic_sampling=True, objective="gdpo")
    assert [g.problem.prompt[0] for g in kept.groups] == ["e"] * 4
    assert all(g.has_signal and not differ(g.reward) for g in kept.groups)


def test_steps_that_tie_in_their_sum_are_signal_with_process_supervision():
    (group,) = with_steps(as_groups(examples(((1.0,) * 4,))), lambda length, reward: ((1, 0.25), (length, 0.75)))
    steps = weighted_steps(group, [1.0])
    assert has_signal("steps", group.reward, group.shaped_rewards, steps)
    assert not has_signal("sum", group.reward, group.shaped_rewards, steps)


def test_truncated_rows_have_no_policy_gradient_and_stay_in_the_denominator():
    groups = as_groups(examples())
    cut = [replace(g, completions=tuple(replace(c, stop_reason="length") for c in g.completions)) for g in groups[:2]]
    groups = [*cut, *groups[2:]]
    model = tiny_model()
    masked = make_learner(model, mask_truncated_completions=True)
    masked.update(masked.prepare(samples(groups), LogProbs()))
    found = gradients(model)
    plain = make_learner(model)
    batch = plain.prepare(samples(groups), LogProbs())
    plain.update(replace(batch, advantages=torch.where(batch.is_truncated_N, 0.0, batch.advantages)))
    assert_same(found, gradients(model), tolerance=1e-6)


def all_cut_off(groups: list[ScoredGroup]) -> list[ScoredGroup]:
    """The groups with every completion ended by the limit."""
    return [replace(g, completions=tuple(replace(c, stop_reason="length") for c in g.completions)) for g in groups]


@pytest.mark.parametrize("settings", [{}, {"micro_batch_tokens": 16}], ids=["one pass", "several passes"])
def test_a_token_mean_over_what_is_not_truncated_is_that_of_the_step_without_it(settings):
    groups, model = as_groups(examples()), tiny_model()
    fields = {"objective": "dapo", "beta": 0.1, "num_minibatches": 1, **settings}
    masked = make_learner(model, **fields)
    scores = masked.score(samples(groups))
    found = masked.update(masked.prepare(samples([*all_cut_off(groups[:2]), *groups[2:]]), scores))
    gradient = gradients(model)
    plain = make_learner(model, **fields)
    expected = plain.update(plain.prepare(samples(groups[2:]), plain.score(samples(groups[2:]))))
    assert_same(gradient, gradients(model), tolerance=1e-6)
    for name in ("loss", "kl", "entropy", "clip_ratio/region_mean", "sampling/mismatch"):
        assert found.stats[name] == pytest.approx(expected.stats[name], abs=1e-6), name
    lengths = [sum(len(c.token_ids) for g in some for c in g.completions) for some in (groups[:2], groups)]
    assert found.stats["masked_ratio"] == pytest.approx(lengths[0] / lengths[1])


@pytest.mark.parametrize("objective", ["grpo", "dapo", "dr_grpo", "gspo", "vespo"])
def test_a_step_of_truncated_completions_moves_nothing(objective):
    model = tiny_model()
    fields = {"objective": objective, "beta": 0.1, "entropy_coef": 0.1, "mask_truncated_completions": True}
    learner = make_learner(model, lr=1.0, **fields)
    groups = all_cut_off(as_groups(examples()))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = learner.update(learner.prepare(samples(groups), learner.score(samples(groups))))
    assert (found.stats["loss"], found.grad_norm, found.num_skipped) == (0, 0, 0)
    assert found.stats["masked_ratio"] == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_kl_is_measured_every_so_many_steps_without_a_penalty(tmp_path):
    grpo = trainer(tmp_path, beta=0.0, kl_metric_steps=2, max_steps=4, prompts_per_step=1)
    grpo.train()
    kls = [m["kl"] for m in RunReader(tmp_path).metrics()]
    assert [kl is None for kl in kls] == [True, False, True, False]
    assert kls[3] > kls[1] > 0
    assert [m["beta"] for m in RunReader(tmp_path).metrics()] == [0.0] * 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"process_rewards": True, "scale": "none"}, "process_rewards needs scale group_std"),
        ({"objective": "gspo", "process_rewards": True}, "level seq_geo_token or token"),
        ({"kl_target": 1.0, "beta": 0.0}, "beta is 0"),
        ({"use_adaptive_entropy": True, "entropy_coef": 2.0}, "outside entropy_coef_min"),
        ({"objective": "remax", "combine": "normalise_each"}, "baseline greedy"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        GRPOConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"entropy_target": 0.5}, "entropy_target without effect"),
        ({"kl_horizon": 5.0}, "kl_horizon without effect"),
        ({"kl_metric_steps": 5}, "kl_metric_steps without effect"),
        ({"kl_metric_steps": 5, "beta": 0.0}, "frozen copy"),
        ({"objective": "luffy"}, "nothing puts demonstrations"),
        ({"objective": "scalerl"}, "max_pass_rate 0.9, which groupwise does not do"),
    ],
)
def test_what_has_no_effect_is_said(settings, words):
    config = GRPOConfig(**settings)
    assert any(words in note for note in config.notes)
    assert not any("without effect" in note for note in GRPOConfig().notes)
