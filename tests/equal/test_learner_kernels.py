"""The learner's kernels against autograd, and a whole pass with them against float32."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import random_rows, tiny_model, with_lora

from groupwise.kernels.attention import packed_attention
from groupwise.kernels.learner import merge_heads, rms_norm, rotary_heads, silu_mul
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.packing import Pack
from groupwise.policy.policy_model import PolicyModel, Scoring

from .test_kernels import DTYPES, SIZES, needs_kernels

pytestmark = [needs_kernels, pytest.mark.parametrize("dtype", DTYPES)]

HEADS, KV_HEADS, WIDTH = 6, 2, 32
ROWS = random_rows((23, 7), ((60, 1, 55), (4, 31)), seed=5)
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-19}
"""The largest relative error of one rounding to bfloat16; in float32, of a short sum."""


def rounds_attention(dtype: torch.dtype) -> bool:
    """Whether its products are taken in the tiles of AMX, which round what they multiply."""
    has_tiles = "amx_bf16" in Path("/proc/cpuinfo").read_text() and os.environ.get("GROUPWISE_KERNELS") != "no-amx"
    return dtype == torch.bfloat16 and has_tiles


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def gradients(output: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    slope = randn(*output.shape).bfloat16().to(output.dtype)
    return torch.autograd.grad(output, inputs, slope)


def assert_near(found: torch.Tensor, expected: torch.Tensor, share: float) -> None:
    assert (found.float() - expected.float()).abs().max() <= share * expected.float().abs().max()


def written_attention(qkv_HTD: torch.Tensor, segments_P4: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention as a mask says it."""
    tokens = qkv_HTD.shape[1]
    mask_TT = torch.zeros(tokens, tokens, dtype=torch.bool)
    for first, count, context, seen in segments_P4.tolist():
        rows = slice(first, first + count)
        mask_TT[rows, context : context + seen] = True
        mask_TT[rows, rows] |= torch.ones(count, count, dtype=torch.bool).tril()
    q, k, v = qkv_HTD.split([HEADS, KV_HEADS, KV_HEADS])
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, dim=0) for x in (k, v))
    scores = (q @ k.transpose(1, 2) * scaling).masked_fill(~mask_TT, float("-inf"))
    return scores.softmax(-1).nan_to_num(0.0) @ v


@pytest.mark.parametrize("width", [16, WIDTH, 48, 64])
@pytest.mark.parametrize("rows", [ROWS, random_rows((37, 5), ((1, 130, 16), (33, 7)), seed=1)])
def test_attention_is_what_the_mask_says(dtype, width, rows):
    """Segments longer and shorter than what is computed at a time, prompts of no whole tile."""
    pack = Pack(rows, torch.device("cpu"))
    qkv = randn(HEADS + 2 * KV_HEADS, len(pack.input_ids_P), width).requires_grad_()
    found = packed_attention(qkv, pack.segments, HEADS, KV_HEADS, width**-0.5, dtype)
    expected = written_attention(qkv, pack.segments, width**-0.5)
    if rounds_attention(dtype):
        assert_near(found, expected, 2 * ROUNDING[dtype])
        assert_near(*gradients(found, qkv), *gradients(expected, qkv), 2 * ROUNDING[dtype])
    else:
        assert torch.allclose(found, expected, atol=1e-5)
        assert torch.allclose(*gradients(found, qkv), *gradients(expected, qkv), atol=1e-5)


def test_attention_does_not_depend_on_the_number_of_threads(dtype):
    pack = Pack(ROWS, torch.device("cpu"))
    results = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            qkv = randn(HEADS + 2 * KV_HEADS, len(pack.input_ids_P), WIDTH).requires_grad_()
            out = packed_attention(qkv, pack.segments, HEADS, KV_HEADS, 0.3, dtype)
            results.append((out.detach(), *gradients(out, qkv)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))


def test_norm(dtype):
    x, weight = randn(9, 64).requires_grad_(), randn(64)
    expected = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight
    found = rms_norm(x, weight, 1e-5, dtype)
    assert_near(found, expected, ROUNDING[dtype])
    assert_near(*gradients(found, x), *gradients(expected, x), 1e-5)


def test_gated_unit(dtype):
    y = randn(9, 64).to(dtype).requires_grad_()
    gate, up = y.float().chunk(2, dim=-1)
    expected, found = F.silu(gate) * up, silu_mul(y)
    assert_near(found, expected, ROUNDING[dtype])
    assert_near(*gradients(found, y), *gradients(expected, y), 2 * ROUNDING[dtype])


@pytest.mark.parametrize("rotary", [WIDTH, WIDTH // 2])
def test_heads(rotary, dtype):
    y = randn(9, (HEADS + 2 * KV_HEADS) * WIDTH).to(dtype).requires_grad_()
    cos, sin = randn(9, rotary), randn(9, rotary)
    x = y.float().unflatten(-1, (-1, WIDTH)).transpose(0, 1)
    turned, rest = x[:, :, :rotary], x[:, :, rotary:]
    half = torch.cat([-turned[..., rotary // 2 :], turned[..., : rotary // 2]], dim=-1)
    whole = torch.cat([turned * cos + half * sin, rest], dim=-1)
    expected = torch.cat([whole[: HEADS + KV_HEADS], x[HEADS + KV_HEADS :]])
    found = rotary_heads(y, cos, sin, HEADS, KV_HEADS)
    assert torch.allclose(found, expected, atol=1e-5)
    assert_near(*gradients(found, y), *gradients(expected, y), 2 * ROUNDING[dtype])


def test_merging_heads(dtype):
    x = randn(HEADS, 9, WIDTH).requires_grad_()
    found, expected = merge_heads(x, dtype), x.transpose(0, 1).flatten(1)
    assert torch.equal(found, expected.to(dtype))
    assert torch.equal(*gradients(found, x), *gradients(expected, x))


def pass_gradients(policy_model: PolicyModel) -> dict[str, torch.Tensor]:
    model: Any = policy_model.model
    model.zero_grad()
    policy_model.refresh()
    with policy_model.pass_over(ROWS, Scoring()) as scores:
        (
            scores.logprob_NT * torch.linspace(-1, 1, scores.logprob_NT.numel()).view_as(scores.logprob_NT)
        ).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def distance(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    gaps = [float((found[name] - gradient).norm() / gradient.norm()) for name, gradient in exact.items()]
    return sum(gaps) / len(gaps)


@pytest.mark.parametrize("name", ["llama", "llama-bias", "qwen2", "mistral", "mistral-window"])
def test_gradients_are_as_near_to_float32_as_without_kernels(name, dtype):
    model = with_lora(tiny_model(name, **SIZES))
    without = FusedModel(model, torch.float32)
    without.drop_kernels()
    exact = pass_gradients(PolicyModel(model, torch.float32, without))
    fast = FusedModel(model, dtype)
    assert fast.kernel_layers
    gap = distance(pass_gradients(PolicyModel(model, dtype, fast)), exact)
    fast.drop_kernels()
    eager = distance(pass_gradients(PolicyModel(model, dtype, fast)), exact)
    share = 1.4 if rounds_attention(dtype) else 1.25
    assert 0 < gap < (1e-5 if dtype == torch.float32 else share * eager)
