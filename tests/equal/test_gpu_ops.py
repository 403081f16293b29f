"""The Triton kernels of a GPU's layers compute what their forms in torch compute.

Triton interprets them on a CPU: `make triton` has it. With OPS_DEVICE=cuda they run compiled, on a GPU (`make gpu`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tiny_model, with_lora
from torch import Tensor

from groupwise.kernels import gpu_ops
from groupwise.policy.attention import AttentionLayer
from groupwise.policy.backend import GPU, backend_override
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.head import LMHead, token_logprobs
from groupwise.rollout.native import static_grid
from groupwise.rollout.native.kv_cache import PromptCache
from groupwise.rollout.native.static_grid import Bucket, StaticGrid, sample_cache

DEVICE = torch.device(os.environ.get("OPS_DEVICE", "cpu"))
needs_triton = pytest.mark.skipif(not gpu_ops.has_triton(DEVICE), reason="triton does not interpret here: make triton")
DTYPES = {torch.float32: 1e-5, torch.bfloat16: 8e-3}
TILE = 16
"""Fewer queries a program than a cell of 8 slots has."""
TOKENS, WIDTH, FORWARD, HEADS, KV_HEADS, HEAD, ROTARY = 5, 96, 40, 6, 2, 24, 16

SINKS = torch.linspace(-1, 2, HEADS, device=DEVICE)
RULES: list[dict[str, Any]] = [{}, {"slots": 8}, {"window": 7}, {"window": 100}, {"softcap": 2.0}, {"sinks_H": SINKS}]


@contextmanager
def in_torch() -> Iterator[None]:
    """Inside, the operations are those written out in torch."""
    with pytest.MonkeyPatch.context() as patched:
        for module in (gpu_ops, static_grid):
            patched.setattr(module, "has_triton", lambda device: False)
        yield


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype).requires_grad_()


def angles(tokens: int) -> tuple[Tensor, Tensor]:
    half = 6 * torch.rand(tokens, ROTARY // 2, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    return torch.cat([half, half], 1).cos(), torch.cat([half, half], 1).sin()


def norm(dtype: torch.dtype) -> list[Tensor]:
    x, weight = numbers(TOKENS, WIDTH), numbers(WIDTH, seed=1)
    y = gpu_ops.rms_norm(x, weight, 1e-5, dtype, WIDTH + 8)[:, :WIDTH]
    return [y, *gradients([y], [x, weight])]


def sum_and_norm(dtype: torch.dtype) -> list[Tensor]:
    x, delta, weight = numbers(TOKENS, WIDTH), numbers(TOKENS, WIDTH, seed=1, dtype=dtype), numbers(WIDTH, seed=2)
    total, y = gpu_ops.add_rms_norm(x, delta, weight, 1e-5, dtype, WIDTH)
    return [total, y, *gradients([total, y], [x, delta, weight])]


def gated(dtype: torch.dtype) -> list[Tensor]:
    x = numbers(TOKENS, 2 * FORWARD, dtype=dtype)
    y = gpu_ops.silu_mul(x, FORWARD + 16)[:, :FORWARD]
    return [y, *gradients([y], [x])]


def heads(dtype: torch.dtype) -> list[Tensor]:
    x = numbers(TOKENS, (HEADS + 2 * KV_HEADS) * HEAD, dtype=dtype)
    parts = gpu_ops.rotated_heads(x, *angles(TOKENS), HEADS, KV_HEADS)
    return [*parts, *gradients(list(parts), [x])]


def gradients(outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    weights = [numbers(*y.shape, seed=7 + n).detach() for n, y in enumerate(outputs)]
    total = sum(((y.float() * w).sum() for y, w in zip(outputs, weights, strict=True)), torch.zeros(()))
    return list(torch.autograd.grad(total, inputs))


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("operation", [norm, sum_and_norm, gated, heads])
def test_an_operation_and_its_gradient_are_those_of_torch(
    operation: Callable[[torch.dtype], list[Tensor]], dtype: torch.dtype
) -> None:
    found = operation(dtype)
    with in_torch():
        expected = operation(dtype)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert (mine - theirs).abs().max() <= DTYPES[dtype] * theirs.abs().max()


@needs_triton
@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_log_probs_and_their_gradients_are_those_of_torch(dtype: torch.dtype, is_trained: bool) -> None:
    """A vocabulary larger than a block of the kernel; a trained head computes its logits again for the gradient."""
    found = _log_probs(dtype, is_trained)
    with in_torch():
        expected = _log_probs(dtype, is_trained)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert (mine - theirs).abs().max() <= DTYPES[dtype] * theirs.abs().max()


def _log_probs(dtype: torch.dtype, is_trained: bool) -> list[Tensor]:
    weight = numbers(5000, WIDTH, dtype=torch.float32 if is_trained else dtype).detach().requires_grad_(is_trained)
    head = LMHead(weight, scale=0.9, dtype=dtype)
    hidden, target = numbers(TOKENS, WIDTH, seed=1), torch.tensor([0, 4999, 4096, 7, 1], device=DEVICE)
    with backend_override(GPU):
        head.refresh(pack=False)
        with torch.no_grad():
            alone, _ = token_logprobs(head, hidden, target, 0.8, with_entropy=False)
        logprob, entropy = token_logprobs(head, hidden, target, 0.8)
        return [alone, logprob, entropy, *gradients([logprob], [hidden, weight][: 1 + is_trained])]


def grid_of(bucket: Bucket, dtype: torch.dtype) -> StaticGrid:
    """Buffers of one layer with random contents: prompts of all lengths, rows that have few and many own keys."""
    fused: Any = SimpleNamespace(device=DEVICE, backend=GPU)
    kv = numbers(KV_HEADS, 4, HEAD, dtype=dtype).detach()
    like = PromptCache(4, [(kv, kv)])
    grid = StaticGrid(fused, bucket, like)
    for seed, buffer in enumerate((grid.prompt_k, grid.prompt_v, grid.own_k, grid.own_v)):
        buffer.copy_(numbers(*buffer.shape, seed=seed))
    grid.prompt_length_C.copy_(torch.tensor([1, bucket.prompt - 3, 70, 129])[: grid.num_cells])
    grid.length_R.copy_(torch.tensor([0, 5, 63, 64, 65, bucket.own - 1, 2, 0])[: bucket.rows])
    grid._place_n = (grid._first_KR + grid.length_R).flatten()
    return grid


def attended(layer: AttentionLayer, dtype: torch.dtype, slots: int) -> list[Tensor]:
    """Of layers that run their own code."""
    grid = grid_of(Bucket(rows=8, slots=slots, prompt=256, own=128, is_greedy=False), dtype)
    q, k, v = (numbers(n, 8, HEAD, seed=9 + n, dtype=dtype).detach() for n in (HEADS, KV_HEADS, KV_HEADS))
    return [grid.attend(layer, q, k, v), grid.own_k, grid.own_v]


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=list)
def test_attention_of_a_decode_step_is_that_of_torch(
    rule: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groupwise.kernels.triton_kernels.CELL_TILE", TILE)
    slots = rule.get("slots", 2)
    rule = {key: value for key, value in rule.items() if key != "slots"}
    layer = AttentionLayer(**{"index": 0, "scaling": 0.3, "window": None, "softcap": None, "sinks_H": None} | rule)
    found = attended(layer, dtype, slots)
    with in_torch():
        expected = attended(layer, dtype, slots)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).abs().max() <= DTYPES[dtype] * theirs.abs().max()


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_decode_step_of_a_model_is_that_of_torch(name: str, dtype: torch.dtype) -> None:
    with backend_override(GPU):
        fused = FusedModel(with_lora(tiny_model(name).to(dtype)).to(DEVICE), dtype)
        assert len(fused.gpu_layers) == 2
        found = _step(fused)
        with in_torch():
            expected = _step(fused)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine - theirs).abs().max() <= 5 * DTYPES[dtype] * theirs.abs().max()


@torch.inference_mode()
def _step(fused: FusedModel) -> list[Tensor]:
    like = sample_cache(fused)
    assert like is not None
    grid = StaticGrid(fused, Bucket(rows=4, slots=2, prompt=64, own=64, is_greedy=False), like)
    for seed, buffer in enumerate((grid.prompt_k, grid.prompt_v, grid.own_k, grid.own_v)):
        buffer.copy_(numbers(*buffer.shape, seed=seed).detach())
    grid.prompt_length_C.copy_(torch.tensor([9, 64]))
    grid.length_R.copy_(torch.tensor([0, 5, 63, 2]))
    grid._place_n = (grid._first_KR + grid.length_R).flatten()
    hidden_RD = fused.hidden(torch.tensor([3, 1, 4, 5], device=DEVICE), grid._positions_CS().flatten(), grid)
    return [hidden_RD, grid.own_k, grid.own_v]
