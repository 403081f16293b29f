"""Small updates reach the rollout: what a learner at learning rate 2e-5 changes, a bfloat16 engine samples from.

One AdamW update moves a weight by 2e-5, ten times less than half a bfloat16 step of most weights. Rounded to nearest it
would be gone. The measure is the slope of the engine's change of log-prob over the learner's exact one: 1 when the
update arrives, 0 when it is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tiny import random_ids, tiny_model, with_lora
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from groupwise.policy import fused_linear
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.rollout.native import NativeEngine
from groupwise.types import Completion, Request, Sampling

GROUP = 16


def make_model(kind: str) -> Any:
    """A base that is exact in bfloat16, as a downloaded model is."""
    model = tiny_model("llama", hidden_size=64, intermediate_size=128, initializer_range=0.12)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())
    return with_lora(model, is_learnt=False, rank=16) if kind == "lora" else model


@dataclass
class Snapshot:
    """What engine and learner say about the engine's own completions."""

    completions: list[Completion]
    rollout_NT: Tensor
    learner_NT: Tensor

    @property
    def mismatch(self) -> float:
        return float((self.rollout_NT - self.learner_NT).abs().exp().mean())


class Bench:
    """A bfloat16 policy model with its engine beside the exact one, on the same weights."""

    def __init__(self, model: Any, num_prompts: int = 16) -> None:
        self.low = PolicyModel(model, torch.bfloat16, FusedModel(model, torch.bfloat16))
        self.exact = PolicyModel(model, torch.float32, FusedModel(model, torch.float32))
        self.engine = NativeEngine(self.low.fused, max_concurrent=256)
        generator = torch.Generator().manual_seed(0)
        sampling = Sampling(max_tokens=24)
        self.requests = [Request(random_ids(generator, 12), GROUP, sampling, seed=(i,)) for i in range(num_prompts)]

    def rows(self, completions: list[Completion]) -> CompletionRows:
        numbers = [i // GROUP for i in range(len(completions))]
        return CompletionRows(
            [self.requests[n].prompt_ids for n in numbers], [c.token_ids for c in completions], numbers
        )

    def snapshot(self) -> Snapshot:
        self.engine.load_weights(None, 0)
        self.exact.refresh()
        answered = dict(self.engine.generate(self.requests))
        completions = [c for number in sorted(answered) for c in answered[number]]
        rollout_NT = pad_sequence([torch.tensor(c.rollout_logprob) for c in completions], batch_first=True)
        return Snapshot(completions, rollout_NT, self.low.score(self.rows(completions), Scoring()).logprob_NT)

    def update(self, rows: CompletionRows) -> Tensor:
        """One AdamW update at 2e-5; returns the exact change of the rows' log-probs."""
        trained = [p for p in self.exact.model.parameters() if p.requires_grad]
        weight_N = torch.randn(len(rows), 1, generator=torch.Generator().manual_seed(1))
        with self.exact.pass_over(rows, Scoring()) as scores:
            (weight_N * scores.logprob_NT).mean().backward()
        torch.optim.AdamW(trained, lr=2e-5, weight_decay=0).step()
        self.exact.refresh()
        return self.exact.score(rows, Scoring()).logprob_NT - scores.logprob_NT.detach()


def slope(found: Tensor, expected: Tensor) -> float:
    return float((found * expected).sum() / expected.square().sum())


def common_tokens(before: list[Completion], after: list[Completion]) -> Tensor:
    """True where both completions have taken the same path so far, shape NT."""
    longest = max(len(c.token_ids) for c in before)
    pairs = [(a.token_ids, b.token_ids) for a, b in zip(before, after, strict=True)]
    return torch.tensor([[t < len(b) and a[: t + 1] == b[: t + 1] for t in range(longest)] for a, b in pairs])


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_rollout_log_probs_follow_one_small_update(kind):
    bench = Bench(make_model(kind))
    before = bench.snapshot()
    change_NT = bench.update(bench.rows(before.completions))
    after = bench.snapshot()

    same_NT = common_tokens(before.completions, after.completions)
    assert same_NT.float().mean() > 0.5
    found = (after.rollout_NT[:, : same_NT.shape[1]] - before.rollout_NT)[same_NT]
    assert 0.5 < slope(found, change_NT[same_NT]) < 1.5
    assert torch.corrcoef(torch.stack([found, change_NT[same_NT]]))[0, 1] > 0.05

    learner_now_NT = bench.low.score(bench.rows(before.completions), Scoring()).logprob_NT
    stale = float((before.rollout_NT - learner_now_NT).abs().exp().mean())
    assert after.mismatch - 1 < 0.1 * (stale - 1), "as near as an engine on the learner's weights, not on the old ones"
    assert after.mismatch < 1.001


@pytest.mark.parametrize(("is_stochastic", "low", "high"), [(True, 0.8, 1.2), (False, 0.0, 0.2)])
def test_rounding_to_nearest_would_lose_the_update(monkeypatch, is_stochastic, low, high):
    if not is_stochastic:
        monkeypatch.setattr(fused_linear, "round_stochastically", lambda weight, seed: weight.detach().bfloat16())
    bench = Bench(make_model("full"), num_prompts=3)
    weights = [p.sources[0].weight_OI.detach() for p in bench.low.fused.linears if len(p.sources) == 1]
    exact = [w.clone() for w in weights]
    rounded = [p.weight_OI.float() for p in bench.low.fused.linears if len(p.sources) == 1]
    bench.update(bench.rows(bench.snapshot().completions))
    bench.low.refresh()
    now = [p.weight_OI.float() for p in bench.low.fused.linears if len(p.sources) == 1]
    found = torch.cat([(a - b).flatten() for a, b in zip(now, rounded, strict=True)])
    wanted = torch.cat([(a - b).flatten() for a, b in zip(weights, exact, strict=True)])
    assert low <= slope(found, wanted) <= high


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_in_float32_the_change_is_the_same_to_rounding(kind):
    model = make_model(kind)
    policy_model = PolicyModel(model, torch.float32, FusedModel(model, torch.float32))
    engine, bench = NativeEngine(policy_model.fused), Bench(model, num_prompts=3)
    engine.load_weights(None, 0)
    bench.update(bench.rows(bench.snapshot().completions))
    engine.load_weights(None, 1)
    answered = dict(engine.generate(bench.requests))
    completions = [c for number in sorted(answered) for c in answered[number]]
    rollout_NT = pad_sequence([torch.tensor(c.rollout_logprob) for c in completions], batch_first=True)
    plain = PolicyModel(model, torch.float32, None).score(bench.rows(completions), Scoring())
    torch.testing.assert_close(rollout_NT, plain.logprob_NT, rtol=0, atol=1e-5)
