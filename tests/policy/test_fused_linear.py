"""Fused linear layers against the modules they stand for, and rounding that loses nothing on average."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from groupwise.policy.fused_linear import FusedLinear, FusedLinearSlice, read_source, round_stochastically

WIDTH = 16


class Layers(nn.Module):
    """Sibling layers of different heights, some with a bias."""

    def __init__(self, has_bias: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.q = nn.Linear(WIDTH, 12, bias=has_bias)
            self.k = nn.Linear(WIDTH, 4, bias=False)
            self.v = nn.Linear(WIDTH, 6, bias=has_bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.q(x), self.k(x), self.v(x)]


def lora(targets: list[str], **ranks: Any) -> Layers:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LoraConfig(r=3, lora_alpha=5, target_modules=targets, rank_pattern=ranks, use_rslora=bool(ranks))
        layers = inject_adapter_in_model(config, Layers(has_bias=True))
        for name, parameter in layers.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter)
    return layers


def frozen() -> Layers:
    return Layers(has_bias=True).requires_grad_(False)


CASES = {
    "full": Layers,
    "full with biases": lambda: Layers(has_bias=True),
    "frozen": frozen,
    "lora on all": lambda: lora(["q", "k", "v"]),
    "lora on some": lambda: lora(["q", "v"]),
    "lora of different ranks": lambda: lora(["q", "k", "v"], k=2, v=5),
}


def fuse(layers: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[FusedLinear, list[FusedLinearSlice]]:
    linear = FusedLinear([read_source(getattr(layers, name)) for name in "qkv"], dtype)
    return linear, [FusedLinearSlice(linear, part) for part in range(3)]


def outputs_with_gradients(
    run: Any, layers: nn.Module, x: Tensor
) -> tuple[list[Tensor], Tensor | None, list[Tensor | None]]:
    layers.zero_grad()
    x = x.clone().requires_grad_()
    outputs = run(x)
    generator = torch.Generator().manual_seed(2)
    sum((torch.randn(y.shape, generator=generator) * y).sum() for y in outputs).backward()
    return outputs, x.grad, [p.grad for p in layers.parameters()]


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_equal_autograd(name):
    layers = CASES[name]()
    _, parts = fuse(layers)
    x = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(3))
    wanted, wanted_dx, wanted_grads = outputs_with_gradients(layers, layers, x)
    found, found_dx, found_grads = outputs_with_gradients(lambda x: [p(x) for p in parts], layers, x)
    for mine, theirs in zip([*found, found_dx], [*wanted, wanted_dx], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(found_grads, wanted_grads, strict=True):
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_without_gradients_the_values_are_the_same(name):
    layers = CASES[name]()
    linear, parts = fuse(layers)
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted = layers(x)
        for _ in range(2):  # as it is, then laid out for few rows
            for mine, theirs in zip([p(x) for p in parts], wanted, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
            linear.pack()


@pytest.mark.parametrize("name", [n for n in CASES if "lora" in n])
def test_with_adapters_off_it_is_the_base(name):
    layers = CASES[name]()
    linear, parts = fuse(layers)
    linear.adapters_enabled = False
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for part, wanted in zip(parts, Layers(has_bias=True)(x), strict=True):
            torch.testing.assert_close(part(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in CASES if n != "frozen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_refresh_takes_over_changed_weights(name, dtype):
    layers = CASES[name]()
    linear, parts = fuse(layers, dtype)
    linear.pack()
    with torch.no_grad():
        for parameter in layers.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.round(decimals=0) + 0.5)  # exact in bfloat16
        linear.refresh()
        linear.pack()
        x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(3)).to(dtype)
        exact = copy.deepcopy(layers)(x.float())
        for part, wanted in zip(parts, exact, strict=True):
            torch.testing.assert_close(
                part(x).float(), wanted, rtol=2e-2, atol=0.1 if dtype == torch.bfloat16 else 1e-4
            )


def test_siblings_may_be_asked_in_any_order_and_again():
    layers = Layers()
    _, parts = fuse(layers)
    x, other = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(3))
    for order in ((2, 0, 1), (0, 0, 1, 2), (1, 2)):
        for part in order:
            torch.testing.assert_close(parts[part](x), layers(x)[part])
            torch.testing.assert_close(parts[part](other), layers(other)[part])


def test_what_cannot_be_taken_apart_says_why():
    linear = nn.Linear(4, 4)
    assert not isinstance(read_source(linear), str)
    assert "Embedding" in read_source(nn.Embedding(3, 3))
    layers = lora(["q"])
    layers.q.merge()
    assert "unmerged" in read_source(layers.q)


@given(st.integers(0, 10_000), st.sampled_from([1e-6, 1e-3, 1.0, 300.0]))
@settings(max_examples=20, deadline=None)
def test_stochastic_rounding_goes_to_a_neighbour_and_repeats_itself(seed, scale):
    weight = scale * torch.randn(64, generator=torch.Generator().manual_seed(seed))
    rounded = round_stochastically(weight, seed)
    assert torch.equal(rounded, round_stochastically(weight, seed))
    step = weight.abs().log2().floor().exp2() * 2.0**-7  # bfloat16 keeps 7 bits after the leading one
    assert ((rounded.float() - weight).abs() < step).all()
    assert torch.equal(round_stochastically(rounded.float(), seed + 1), rounded), "what is exact stays"


def test_stochastic_rounding_keeps_the_mean():
    weight = torch.tensor([0.1, -0.1, 1.0001, -3.3333, 1e-5, 0.0])
    num = 4000
    mean = torch.stack([round_stochastically(weight, seed).double() for seed in range(num)]).mean(0)
    step = weight.abs().log2().floor().exp2().nan_to_num() * 2.0**-7
    assert ((mean - weight.double()).abs() <= 4 * step / 2 / num**0.5 + 1e-12).all()
    assert (weight.bfloat16().double() - weight.double()).abs()[2] > 5e-5, "to nearest, 1.0001 would be 1"
