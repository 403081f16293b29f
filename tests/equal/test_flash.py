"""Flash attention over a pack against the pack's own attention, in its written-out form on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny import random_rows
from torch import Tensor

from groupwise.policy import flash
from groupwise.policy.attention import AttentionLayer
from groupwise.policy.flash import FlashAttention
from groupwise.policy.packing import Pack
from groupwise.rollout.native.kv_cache import PrefillPlan

HEADS, KV_HEADS, WIDTH = 4, 2, 16
LAYER = AttentionLayer(0, WIDTH**-0.5, None, None, None)
BITS16 = {"atol": 0.02, "rtol": 0.02}


def parts(tokens: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    heads = (HEADS, KV_HEADS, KV_HEADS)
    return [torch.randn(n, tokens, WIDTH, generator=generator).bfloat16().requires_grad_() for n in heads]


def outputs_and_gradients(attend: Callable[..., Tensor], tokens: int, used: int) -> list[Tensor]:
    q, k, v = parts(tokens)
    output = attend(LAYER, q, k, v)[:, :used]
    slope = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return [output, *torch.autograd.grad((output.float() * slope).sum(), [q, k, v])]


@pytest.mark.parametrize("lengths", [((9, 1, 30), (4, 12), (8,)), ((1, 1), (1,), (1,))], ids=["long", "of one token"])
def test_it_is_the_attention_of_the_pack_and_its_gradient(lengths: tuple[tuple[int, ...], ...]) -> None:
    pack = Pack(random_rows((23, 7, 90), lengths, seed=1), torch.device("cpu"))
    tokens = len(pack.input_ids_P)
    plan = FlashAttention(pack.segments, tokens, pack.longest, torch.device("cpu"))
    used = tokens - pack.num_padding
    pairs = (outputs_and_gradients(attend, tokens, used) for attend in (plan.attend, pack.attend))
    for mine, theirs in zip(*pairs, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, **BITS16)


def test_each_part_is_the_softmax_that_autograd_differentiates() -> None:
    """In float32, where nothing is rounded: the written-out gradient against autograd's."""
    pack = Pack(random_rows((23, 7), ((9, 1, 30), (4,)), seed=1), torch.device("cpu"))
    tokens = len(pack.input_ids_P)
    plan = FlashAttention(pack.segments, tokens, pack.longest, torch.device("cpu"))
    q, k, v = (x.detach().float().requires_grad_() for x in parts(tokens))
    used = slice(0, tokens - pack.num_padding)
    slope = torch.linspace(-1, 1, HEADS * used.stop * WIDTH).view(HEADS, used.stop, WIDTH)
    found = flash._MixedAttention.apply(plan, LAYER.scaling, *(x.transpose(0, 1) for x in (q, k, v))).transpose(0, 1)
    expected = pack.attend(LAYER, q, k, v)
    for output in (found, expected):
        torch.testing.assert_close(output[:, used], expected[:, used], atol=2e-6, rtol=1e-5)
    gradients = [torch.autograd.grad((x[:, used] * slope).sum(), [q, k, v]) for x in (found, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=5e-6, rtol=1e-5)


def test_prompts_attend_at_once() -> None:
    plan = PrefillPlan([5, 1, 17])
    tokens = 32
    at_once = FlashAttention(plan.segments, tokens, plan.longest, torch.device("cpu"))
    q, k, v = parts(tokens)
    torch.testing.assert_close(at_once.attend(LAYER, q, k, v)[:, :23], plan.attend(LAYER, q, k, v)[:, :23], **BITS16)


@pytest.mark.parametrize(
    "layer",
    [
        AttentionLayer(0, 1.0, None, 2.0, None),
        AttentionLayer(0, 1.0, None, None, torch.zeros(HEADS)),
        AttentionLayer(0, 1.0, 12, None, None),
    ],
    ids=["soft cap", "sinks", "a window that cuts"],
)
def test_it_leaves_to_others_what_it_does_not_compute(layer: AttentionLayer) -> None:
    plan = FlashAttention(torch.tensor([[0, 23, 0, 0]]), 32, 23, torch.device("cpu"))
    assert plan.attend(layer, *parts(32)) is None
    assert plan.attend(LAYER, *(x.float() for x in parts(32))) is None
