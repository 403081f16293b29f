"""The chunked head against plain autograd over the full logits."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from groupwise.policy import head as heads
from groupwise.policy.backend import CPU
from groupwise.policy.head import LMHead, token_logprobs

NUM, WIDTH, VOCABULARY = 2 * CPU.head_rows + 37, 12, 50
TOLERANCE = 2e-5


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_scores(head: LMHead, hidden_ND: Tensor, target_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The formulas of the module's docstring, with the logits in full."""
    logits = hidden_ND @ head.weight_VD.T + (0 if head.bias_V is None else head.bias_V)
    logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    log_p_NV = (logits / temperature).log_softmax(-1)
    return log_p_NV[torch.arange(len(target_N)), target_N], -(log_p_NV.exp() * log_p_NV).sum(-1)


CASES = list(product([False, True], [False, True], [(1.0, 1.0), (0.6, 0.25)], [None, 3.0]))


@pytest.mark.parametrize("entropy_gradient", [False, True], ids=["", "entropy"])
@pytest.mark.parametrize(("is_weight_trained", "has_bias", "numbers_", "softcap"), CASES)
def test_values_and_gradients_equal_autograd(is_weight_trained, has_bias, numbers_, softcap, entropy_gradient):
    temperature, scale = numbers_
    weight = numbers(VOCABULARY, WIDTH, seed=1).requires_grad_(is_weight_trained)
    bias = numbers(VOCABULARY, seed=2).requires_grad_(is_weight_trained) if has_bias else None
    head = LMHead(weight, bias, scale, softcap)
    head.refresh(pack=False)
    hidden = numbers(NUM, WIDTH).requires_grad_()
    target = torch.randint(VOCABULARY, (NUM,), generator=torch.Generator().manual_seed(3))
    inputs = [t for t in (hidden, weight, bias) if t is not None and t.requires_grad]
    down_logprob, down_entropy = numbers(NUM, seed=4), numbers(NUM, seed=5)

    expected = plain_scores(head, hidden, target, temperature)
    found = token_logprobs(head, hidden, target, temperature, entropy_gradient=entropy_gradient)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=TOLERANCE)

    def loss(scores: tuple[Tensor, Tensor]) -> Tensor:
        entropy = (down_entropy * scores[1]).sum() if entropy_gradient else 0.0
        return (down_logprob * scores[0]).sum() + entropy

    wanted = torch.autograd.grad(loss(expected), inputs)
    for mine, theirs in zip(torch.autograd.grad(loss(found), inputs), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=TOLERANCE * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_an_adjustment_of_the_logits_reaches_values_and_gradients(entropy_gradient):
    weight, hidden = numbers(VOCABULARY, WIDTH, seed=1), numbers(NUM, WIDTH).requires_grad_()
    target = torch.randint(VOCABULARY, (NUM,), generator=torch.Generator().manual_seed(3))
    keep = torch.rand(NUM, VOCABULARY, generator=torch.Generator().manual_seed(4)) < 0.3
    keep[torch.arange(NUM), target] = True

    def adjust(logits: Tensor, first: int) -> Tensor:
        return logits.masked_fill(~keep[first : first + len(logits)], float("-inf"))

    log_p = ((hidden @ weight.T).masked_fill(~keep, float("-inf")) / 0.7).log_softmax(-1)
    expected = log_p[torch.arange(NUM), target], torch.special.entr(log_p.exp()).sum(-1)
    found = token_logprobs(LMHead(weight), hidden, target, 0.7, adjust, entropy_gradient=entropy_gradient)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=TOLERANCE)
    wanted = torch.autograd.grad(expected[0].sum(), hidden)[0]
    torch.testing.assert_close(torch.autograd.grad(found[0].sum(), hidden)[0], wanted, rtol=0, atol=TOLERANCE)


def test_the_entropy_has_no_gradient_unless_asked_for():
    hidden = numbers(5, WIDTH).requires_grad_()
    head = LMHead(numbers(VOCABULARY, WIDTH, seed=1))
    assert not token_logprobs(head, hidden, torch.arange(5))[1].requires_grad
    assert token_logprobs(head, hidden, torch.arange(5), entropy_gradient=True)[1].requires_grad


@pytest.mark.parametrize("is_weight_trained", [False, True])
def test_the_full_logits_are_never_kept(monkeypatch, is_weight_trained):
    largest = 0
    head = LMHead(numbers(VOCABULARY, WIDTH, seed=1).requires_grad_(is_weight_trained))
    logits = LMHead.logits

    def watched(self: LMHead, hidden_ND: Tensor, *buffer: object) -> Tensor:
        nonlocal largest
        largest = max(largest, len(hidden_ND))
        return logits(self, hidden_ND)

    monkeypatch.setattr(heads.LMHead, "logits", watched)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        scores = token_logprobs(head, numbers(NUM, WIDTH).requires_grad_(), torch.zeros(NUM, dtype=torch.long))
    scores[0].sum().backward()
    assert 0 < largest <= CPU.head_rows
    assert max(kept) <= NUM * WIDTH


def test_no_tokens_give_no_scores():
    hidden = torch.zeros(0, WIDTH, requires_grad=True)
    for softcap in (None, 2.0):
        found = token_logprobs(LMHead(numbers(VOCABULARY, WIDTH), softcap=softcap), hidden, torch.zeros(0).long())
        assert [len(f) for f in found] == [0, 0]


def test_temperature_0_scores_like_1():
    head, hidden = LMHead(numbers(VOCABULARY, WIDTH)), numbers(4, WIDTH, seed=1)
    greedy, plain = (token_logprobs(head, hidden, torch.arange(4), t)[0] for t in (0.0, 1.0))
    assert torch.equal(greedy, plain)


def test_a_trained_head_is_read_anew_and_a_frozen_one_once():
    for is_trained in (True, False):
        layer = nn.Linear(WIDTH, VOCABULARY, bias=False)
        layer.weight.requires_grad_(is_trained)
        head, hidden = LMHead(layer.weight), numbers(4, WIDTH)
        head.refresh(pack=True)
        with torch.no_grad():
            layer.weight.mul_(2)
        head.refresh(pack=True)
        factor = 2 if is_trained else 1
        torch.testing.assert_close(head.logits(hidden), (hidden @ layer.weight.T).detach() * factor / 2)
