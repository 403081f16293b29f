"""However the learner cuts, packs and recomputes, the gradients are the same."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tiny import random_rows, tiny_model, with_lora
from torch import Tensor

from groupwise.policy.fused_model import FusedModel
from groupwise.policy.packing import CompletionRows, micro_batches
from groupwise.policy.policy_model import PolicyModel, Scoring

from .test_architectures import assert_same_gradients, gradients, networks

NAMES = ["llama", "mistral-window", "gemma3"]
ROWS = random_rows(prompts=(9, 14, 6, 11), completions=((7, 1, 12, 3), (4, 9), (1, 1), (2, 5, 5)))


def scored_in_parts(
    policy_model: PolicyModel, rows: CompletionRows, parts: list[list[int]]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probs N of whole rows, and the gradient of a weighted sum of them, accumulated over the parts."""
    policy_model.model.zero_grad()
    weight_N = torch.randn(len(rows), generator=torch.Generator().manual_seed(2))
    logprob_N = torch.zeros(len(rows))
    for part in parts:
        with policy_model.pass_over(rows.select(part), Scoring()) as scores:
            sums = scores.logprob_NT.sum(1)
            (weight_N[part] * sums).sum().backward()
        logprob_N[part] = sums.detach()
    return logprob_N, {n: p.grad.clone() for n, p in policy_model.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("budget", [1, 20, 28])
@pytest.mark.parametrize("name", NAMES)
def test_splitting_groups_over_micro_batches_changes_no_gradient(name, budget):
    _, fast = networks(with_lora(tiny_model(name)))
    parts = micro_batches(ROWS, budget)
    assert len(parts) > 1
    assert any(ROWS.group[a[-1]] == ROWS.group[b[0]] for a, b in pairwise(parts))
    whole_N, whole = scored_in_parts(fast, ROWS, [list(range(len(ROWS)))])
    found_N, found = scored_in_parts(fast, ROWS, parts)
    torch.testing.assert_close(found_N, whole_N, rtol=1e-5, atol=1e-5)
    assert_same_gradients(found, whole, tolerance=1e-5)


@pytest.mark.parametrize("order", [[3, 2, 1, 0, 5, 4, 7, 6, 10, 9, 8], [4, 5, 8, 9, 10, 0, 1, 2, 3, 6, 7]])
def test_the_order_of_rows_and_groups_does_not_matter(order):
    _, fast = networks(tiny_model("mistral-window"))
    straight, _ = scored_in_parts(fast, ROWS, [list(range(len(ROWS)))])
    shuffled = fast.score(ROWS.select(order), Scoring()).logprob_NT.sum(1)
    torch.testing.assert_close(shuffled, straight[order], rtol=1e-5, atol=1e-5)


def test_a_completion_does_not_see_its_siblings():
    _, fast = networks(tiny_model("llama"))
    together = fast.score(ROWS, Scoring()).logprob_NT
    for row in range(len(ROWS)):
        alone = fast.score(ROWS.select([row]), Scoring()).logprob_NT[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-5, atol=1e-5)


def test_equal_prompts_of_two_draws_stay_two_groups():
    prompt = ROWS.prompt_ids[0]
    rows = CompletionRows([prompt] * 4, ROWS.token_ids[:4], [0, 0, 1, 1])
    _, fast = networks(tiny_model("llama"))
    torch.testing.assert_close(
        fast.score(rows, Scoring()).logprob_NT, fast.score(ROWS.select(range(4)), Scoring()).logprob_NT
    )
    assert [len(run) for run in rows.runs()] == [2, 2]


@pytest.mark.parametrize("wrap", [lambda m: m, with_lora], ids=["full", "lora"])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_changes_no_gradient(name, wrap):
    model = wrap(tiny_model(name))
    _, fast = networks(model)
    _, checkpointed = networks(model, gradient_checkpointing=True)
    assert saved_tensors(checkpointed) < 0.6 * saved_tensors(fast)
    assert_same_gradients(gradients(checkpointed, ROWS), gradients(fast, ROWS), tolerance=1e-6)


def test_gradient_checkpointing_needs_no_deprecated_name():
    networks(tiny_model(), gradient_checkpointing=True)


def saved_tensors(policy_model: PolicyModel) -> int:
    """How many tensors a forward pass keeps for its backward pass."""
    count = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, policy_model.pass_over(ROWS, Scoring()) as scores:
        assert scores.logprob_NT.requires_grad
    return count


def test_checkpointing_adds_no_dropout():
    model = with_lora(tiny_model("llama", attention_dropout=0.5), lora_dropout=0.5).train()
    _, fast = networks(model)
    first, second = (fast.score(ROWS, Scoring()).logprob_NT for _ in range(2))
    assert torch.equal(first, second)
    slow = PolicyModel(model, torch.float32, None).score(ROWS, Scoring()).logprob_NT
    torch.testing.assert_close(first, slow, rtol=1e-5, atol=2e-5)
    assert model.training, "the user's model keeps its mode"


def test_bfloat16_stays_near_float32():
    model: Any = with_lora(tiny_model("llama", initializer_range=0.1))
    exact = PolicyModel(model, torch.float32, FusedModel(model, torch.float32))
    rounded = PolicyModel(model, torch.bfloat16, FusedModel(model, torch.bfloat16))
    gap = (exact.score(ROWS, Scoring()).logprob_NT - rounded.score(ROWS, Scoring()).logprob_NT).abs()
    assert 0 < gap.mean() < 0.02
