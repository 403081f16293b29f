"""The learner against a second GRPO written from the paper: losses, gradients, whole rollouts of updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from scored import samples, scored_group
from tiny import random_rows, tiny_model, with_lora
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR

from groupwise.config import GRPOConfig
from groupwise.policy.compute_limits import ComputeLimits
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import PolicyModel
from groupwise.policy.reference import Reference
from groupwise.rewards import RewardFunction, RewardScorer
from groupwise.rollout.fastpath import build_policy_model
from groupwise.train.batch import LogProbs
from groupwise.train.learner import Learner
from groupwise.types import Completion, Problem, ScoredGroup

from .grpo import Example, advantages, bnpo, grpo, logprobs

SIZE = 4
MODELS = {
    "full": tiny_model,
    "lora": lambda: with_lora(tiny_model("qwen3")),
    "window": lambda: with_lora(tiny_model("mistral-window")),
    "slow path": lambda: tiny_model("lfm2"),
}
REWARDS = ((1.0, 0.0, 3.0, 0.5), (-2.0, -2.5, -2.0, 0.0), (0.0, 0.0, 1.0, 0.0), (5.0, 4.0, 4.0, 4.5))


def examples(rewards: Sequence[Sequence[float]] = REWARDS, seed: int = 0) -> list[Example]:
    """Groups of random completions of 1 to 9 tokens; the last rows of a group are not its longest."""
    lengths = [((7, 1, 9, 3), (2, 5, 1, 4), (6, 6, 6, 2), (1, 1, 8, 3))[n % 4] for n in range(len(rewards))]
    rows = random_rows([(9, 4, 12, 6)[n % 4] for n in range(len(rewards))], lengths, seed)
    return [
        Example(rows.prompt_ids[run[0]], [rows.token_ids[r] for r in run], values)
        for run, values in zip(rows.runs(), rewards, strict=True)
    ]


def as_groups(groups: Sequence[Example], rollout: float = -1.0) -> list[ScoredGroup]:
    def completion(ids: tuple[int, ...]) -> Completion:
        return Completion(ids, (rollout,) * len(ids), "stop", 0)

    found = []
    for n, g in enumerate(groups):
        rewards = tuple(g.rewards)
        completions = tuple(map(completion, g.completions))
        found.append(scored_group(n, Problem(n, "p"), g.prompt, completions, {"f": rewards}))
    return found


def make_learner(model: Any, *, lr: float = 0.0, policy_model: PolicyModel | None = None, **settings: Any) -> Learner:
    """A learner with plain SGD, so that weights show gradients."""
    policy_model = policy_model or build_policy_model(model, torch.float32)
    settings = {"num_generations": SIZE, "prompts_per_step": 4, "max_grad_norm": 0, "beta": 0.0} | settings
    config = GRPOConfig(dtype="float32", **settings).settings
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr)
    reference = None
    if config.beta > 0:
        reference = Reference(policy_model, lambda frozen: build_policy_model(frozen, torch.float32))
    return Learner(policy_model, reference, optimizer, LambdaLR(optimizer, lambda _: 1.0), config)


def padded(parts: Sequence[Sequence[Tensor]]) -> Tensor:
    return pad_sequence([t for part in parts for t in part], batch_first=True)


def with_other_policies(model: Any, groups: list[Example], temperature: float = 1.0) -> list[Example]:
    """Old and reference log-probs near the current ones: ratios on both sides of the clip."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for group in groups:
        now = [logprobs(model, group.prompt, c, temperature).detach() for c in group.completions]
        old = [n + 0.3 * torch.randn(n.shape, generator=generator) for n in now]
        ref = [n + 0.3 * torch.randn(n.shape, generator=generator) for n in now]
        found.append(replace(group, old=old, ref=ref))
    return found


def gradients(model: Any) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def gradients_of(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return gradients(model)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 1e-3
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) <= tolerance * max(1.0, largest), name


@pytest.mark.parametrize(("beta", "temperature", "budget"), [(0.0, 1.0, None), (0.5, 0.7, 20)])
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_the_paper(name, beta, temperature, budget):
    model = MODELS[name]()
    groups = with_other_policies(model, examples(), temperature)
    expected = grpo(model, groups if beta else [replace(g, ref=None) for g in groups],
                    epsilon=0.2, beta=beta, temperature=temperature)  # fmt: skip
    wanted = gradients_of(model, expected.loss)

    learner = make_learner(model, beta=beta, temperature=temperature, micro_batch_tokens=budget)
    scores = LogProbs(padded([g.old for g in groups]), padded([g.ref for g in groups]) if beta else None)
    update = learner.update(learner.prepare(samples(as_groups(groups)), scores))
    assert update.stats["loss"] == pytest.approx(expected.loss.item(), abs=2e-5)
    assert_same(gradients(model), wanted)

    assert expected.clipped_low > 0
    assert expected.clipped_high > 0
    assert update.stats["clip_ratio/low_mean"] == pytest.approx(expected.clipped_low, abs=1e-6)
    assert update.stats["clip_ratio/high_mean"] == pytest.approx(expected.clipped_high, abs=1e-6)
    assert update.stats["clip_ratio/region_mean"] == pytest.approx(
        expected.clipped_low + expected.clipped_high, abs=1e-6
    )
    assert update.stats.get("kl") == (pytest.approx(expected.kl, abs=1e-5) if beta else None)
    norm = torch.stack([g.square().sum() for g in wanted.values()]).sum().sqrt()
    assert update.grad_norm == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize("name", ["full", "lora", "slow path"])
def test_one_update_of_a_rollout_starts_at_the_policy_itself(name):
    """With beta 0 the loss is 0 by construction, no token is clipped, and no second pass scores the old policy."""
    model = MODELS[name]()
    learner = make_learner(model)
    groups = examples()
    scores = learner.score(samples(as_groups(groups)))
    assert scores == LogProbs(None, None)
    update = learner.update(learner.prepare(samples(as_groups(groups)), scores))
    assert update.stats["loss"] == pytest.approx(0.0, abs=1e-6)
    assert update.stats["clip_ratio/low_mean"] == update.stats["clip_ratio/high_mean"] == 0.0
    assert update.stats["clip_ratio/region_mean"] == 0.0
    assert update.stats["ratio/max"] == 1.0
    expected = grpo(model, groups, epsilon=0.2, beta=0.0)
    found = gradients(model)
    assert_same(found, gradients_of(model, expected.loss))


def test_the_reference_is_scored_once_and_its_kl_is_0_before_the_first_update():
    model = MODELS["full"]()
    learner = make_learner(model, beta=0.04)
    scores = learner.score(samples(as_groups(examples())))
    expected = [logprobs(model, g.prompt, c).detach() for g in examples() for c in g.completions]
    torch.testing.assert_close(scores.ref_NT, padded([expected]), rtol=0, atol=2e-5)
    update = learner.update(learner.prepare(samples(as_groups(examples())), scores))
    assert update.stats["kl"] == pytest.approx(0.0, abs=1e-6)


def test_bnpo_is_the_widely_copied_mean_over_tokens():
    model = tiny_model()
    groups = with_other_policies(model, examples())
    expected = bnpo(model, groups, epsilon=0.2, beta=0.1)
    wanted = gradients_of(model, expected)
    learner = make_learner(model, beta=0.1, loss_type="bnpo")
    scores = LogProbs(padded([g.old for g in groups]), padded([g.ref for g in groups]))
    update = learner.update(learner.prepare(samples(as_groups(groups)), scores))
    assert update.stats["loss"] == pytest.approx(expected.item(), abs=2e-5)
    assert_same(gradients(model), wanted)
    by_sequence = grpo(model, groups, epsilon=0.2, beta=0.1).loss
    assert abs((by_sequence - expected).item()) > 1e-3, "the two normalisations differ here"


@pytest.mark.parametrize(
    ("name", "num_iterations", "num_minibatches"), [("full", 1, 2), ("full", 3, 1), ("full", 2, 2), ("lora", 2, 2)]
)
def test_several_updates_of_a_rollout_follow_the_papers_loop(name, num_iterations, num_minibatches):
    model, twin = MODELS[name](), MODELS[name]()
    groups, lr = examples(), 0.02
    learner = make_learner(
        model, lr=lr, beta=0.1, num_iterations=num_iterations, num_minibatches=num_minibatches, micro_batch_tokens=25
    )
    learner.policy_model.refresh()
    update = learner.update(learner.prepare(samples(as_groups(groups)), learner.score(samples(as_groups(groups)))))
    assert update.num_updates == num_iterations * num_minibatches

    with torch.no_grad():
        old = [[logprobs(twin, g.prompt, c) for c in g.completions] for g in groups]
    start = [replace(g, old=o, ref=o) for g, o in zip(groups, old, strict=True)]
    half = len(groups) // num_minibatches
    losses, clipped = [], []
    for _ in range(num_iterations):
        for first in range(0, len(groups), half):
            result = grpo(twin, start[first : first + half], epsilon=0.2, beta=0.1)
            for name_, gradient in gradients_of(twin, result.loss).items():
                with torch.no_grad():
                    twin.get_parameter(name_).sub_(lr * gradient)
            losses.append(result.loss.item())
            clipped.append(result.clipped_low + result.clipped_high)
    assert update.stats["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    for (name_, mine), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4, msg=name_)
    if num_iterations > 1:
        assert sum(clipped) > 0
        assert update.stats["clip_ratio/region_mean"] > 0


def test_groups_without_signal_cost_no_pass_and_change_nothing(monkeypatch):
    rewards = ((1.0, 1.0, 1.0, 1.0), REWARDS[1], (-287.3,) * 4, REWARDS[2])
    model = tiny_model()
    groups = with_other_policies(model, examples(rewards))
    scores = LogProbs(padded([g.old for g in groups]))
    tokens = []

    def update(learner: Learner) -> Any:
        scored: list[int] = []
        original = PolicyModel.pass_over

        def counting(self, rows, scoring):
            scored.append(len(rows))
            return original(self, rows, scoring)

        with monkeypatch.context() as patch:
            patch.setattr(PolicyModel, "pass_over", counting)
            result = learner.update(learner.prepare(samples(as_groups(groups)), scores))
        tokens.append(sum(scored))
        return result

    skipped = update(make_learner(model))
    found = gradients(model)
    monkeypatch.setattr(Learner, "_rows_with_gradient", lambda self, batch: list(range(len(batch))))
    whole = update(make_learner(model))
    assert tokens == [8, 16]
    assert_same(found, gradients(model), tolerance=1e-6)
    for name in ("loss", "policy_loss", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"):
        assert skipped.stats[name] == pytest.approx(whole.stats[name], abs=1e-7), name
    expected = grpo(model, [replace(g, ref=None) for g in groups], epsilon=0.2, beta=0.0)
    assert skipped.stats["clip_ratio/low_mean"] == pytest.approx(expected.clipped_low)
    assert_same(found, gradients_of(model, expected.loss))


def test_without_a_pass_the_entropy_is_that_of_one_completion_a_group():
    model = tiny_model()
    groups = examples(((2.0,) * 4,) * 3)
    learner = make_learner(model)
    update = learner.update(learner.prepare(samples(as_groups(groups)), LogProbs()))
    entropies = []
    for group in groups:
        logits = model(torch.tensor([group.prompt + group.completions[0]])).logits[0, len(group.prompt) - 1 : -1]
        entropies.append(torch.distributions.Categorical(logits=logits).entropy())
    assert update.stats["entropy"] == pytest.approx(float(torch.cat(entropies).mean().detach()), rel=1e-4)
    assert "kl" not in update.stats


def test_a_step_without_any_signal_moves_nothing_but_the_schedule():
    model = tiny_model()
    learner = make_learner(model, lr=1.0)
    before = [p.clone() for p in model.parameters()]
    update = learner.update(learner.prepare(samples(as_groups(examples(((2.0,) * 4,) * 3))), LogProbs()))
    assert (update.grad_norm, update.stats["loss"], update.stats["clip_ratio/region_mean"]) == (0, 0, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert learner.scheduler.last_epoch == 1


def test_a_gradient_that_is_not_finite_is_left_out_and_counted():
    model = tiny_model()
    learner = make_learner(model, lr=0.1)
    groups = examples()
    scores = LogProbs(old_NT=torch.full((16, 9), -torch.inf))
    before = [p.clone() for p in model.parameters()]
    update = learner.update(learner.prepare(samples(as_groups(groups)), scores))
    assert update.num_skipped == update.num_updates == 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_gradients_are_clipped_to_the_norm_and_reported_before():
    model = tiny_model()
    groups = examples()
    free = make_learner(model)
    norm = free.update(free.prepare(samples(as_groups(groups)), LogProbs())).grad_norm
    clipped = make_learner(model, max_grad_norm=norm / 4)
    assert clipped.update(clipped.prepare(samples(as_groups(groups)), LogProbs())).grad_norm == pytest.approx(
        norm, rel=1e-5
    )
    found = torch.stack([g.square().sum() for g in gradients(model).values()]).sum().sqrt()
    assert float(found) == pytest.approx(norm / 4, rel=1e-4)


def test_rewards_that_could_not_be_judged_have_no_advantage():
    groups = as_groups(examples())
    rewards = (None, 1.0, 2.0, 3.0)
    groups[0] = replace(groups[0], rewards={"f": rewards}, reward=rewards)
    learner = make_learner(tiny_model())
    batch = learner.prepare(samples(groups), LogProbs())
    assert batch.advantages[0] == 0
    torch.testing.assert_close(batch.advantages[1:4], advantages(rewards[1:]), rtol=0, atol=1e-5)


def test_several_rewards_are_weighted_and_summed_before_the_group_compares():
    groups = examples()
    other = [tuple(float(len(c)) for c in g.completions) for g in groups]
    weights = (2.0, -0.25)
    functions = [
        RewardFunction.of(lambda completion_ids, values=values: values, name=name, weight=weight)
        for name, weight, values in zip(
            "fg", weights, ([r for g in groups for r in g.rewards], [r for o in other for r in o]), strict=True
        )
    ]
    scored = RewardScorer(functions).score(as_groups(groups)).groups
    found = make_learner(tiny_model()).prepare(samples(scored), LogProbs()).advantages
    sums = [[2 * a - 0.25 * b for a, b in zip(g.rewards, o, strict=True)] for g, o in zip(groups, other, strict=True)]
    torch.testing.assert_close(found, torch.cat([advantages(s) for s in sums]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "completions", "budget"),
    [
        (90, [96] * 2, 512),  # small groups share a pass
        (90, [96] * 8, 858),  # a group is one pass
        (90, [96] * 64, 1024),  # a large one is cut
        (1000, [64] * 8, 1512),  # and not for its prompt alone
        (1000, [64] * 64, 2000),
    ],
)
def test_a_pass_holds_a_group_within_bounds_and_a_long_prompt_with_company(prompt, completions, budget):
    rows = CompletionRows([(1,) * prompt] * len(completions), [(1,) * n for n in completions], [0] * len(completions))
    assert ComputeLimits.of(torch.device("cpu")).tokens(rows) == budget
