"""The reference is the policy as it was handed in, and every mix is a mix of effective weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import random_rows, tiny_model, with_lora
from torch import Tensor

from groupwise.policy.adapter import starts_as_base
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.policy.reference import Reference, effective_model

ROWS, SCORING = random_rows(), Scoring(temperature=0.9)
BUILDS: dict[str, Callable[[Any], PolicyModel]] = {
    "packed": lambda model: PolicyModel(model, torch.float32, FusedModel(model, torch.float32)),
    "plain": lambda model: PolicyModel(model, torch.float32, None),
}
MODELS: dict[str, Callable[[], Any]] = {
    "fresh adapter": lambda: with_lora(tiny_model(), is_learnt=False),
    "learnt adapter": lambda: with_lora(tiny_model()),
    "full": tiny_model,
    "full, tied": lambda: tiny_model("llama-tied"),
}
build = pytest.fixture(params=BUILDS)(lambda request: BUILDS[request.param])


def plain_logprobs(model: Any) -> Tensor:
    return PolicyModel(model, torch.float32, None).score(ROWS, SCORING).logprob_NT


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)


def train(model: Any, seed: int) -> None:
    """Move everything that is trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def effective_weights(model: Any) -> dict[str, Tensor]:
    """W + scale B A of every weight, by the names of the base, written out from the factors."""
    weights = {}
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            name = name.removeprefix("base_model.model.")
            weights[name.replace(".base_layer", "")] = parameter.detach().clone()
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            weights[name.removeprefix("base_model.model.") + ".weight"] += module.scaling["default"] * (b @ a).detach()
    return weights


def model_with(weights: dict[str, Tensor], like: str = "llama") -> Any:
    model = tiny_model(like)
    model.load_state_dict(weights, strict=False)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_it_stays_the_policy_as_it_was_handed_in(name, build):
    model = MODELS[name]()
    handed_in = plain_logprobs(model)
    policy = build(model)
    reference = Reference(policy, build)
    assert_same(reference.score(ROWS, SCORING).logprob_NT, handed_in)
    train(model, seed=1)
    policy.refresh()
    assert (policy.score(ROWS, SCORING).logprob_NT - handed_in).abs().max() > 0.5
    assert_same(reference.score(ROWS, SCORING).logprob_NT, handed_in)


def test_only_a_fresh_adapter_needs_no_copy(build):
    for name, make in MODELS.items():
        reference = Reference(build(make()), build)
        assert reference.is_copy == (name != "fresh adapter")
        assert bool(reference.state_dict()) == reference.is_copy
    assert starts_as_base(MODELS["fresh adapter"]())
    assert not starts_as_base(MODELS["learnt adapter"]())


@pytest.mark.parametrize("name", MODELS)
def test_mixing_is_on_effective_weights(name, build):
    model, like = MODELS[name](), "llama-tied" if "tied" in name else "llama"
    policy = build(model)
    reference = Reference(policy, build)
    expected = effective_weights(model)
    for step, alpha in enumerate((0.3, 0.6)):
        train(model, seed=step)
        policy.refresh()
        new = effective_weights(model)
        expected = {n: alpha * new[n] + (1 - alpha) * w for n, w in expected.items()}
        reference.mix(alpha)
        assert reference.is_copy
        assert_same(reference.score(ROWS, SCORING).logprob_NT, plain_logprobs(model_with(expected, like)))
    if name == "learnt adapter":
        return
    assert (plain_logprobs(model) - plain_logprobs(model_with(expected, like))).abs().max() > 0.1


@pytest.mark.parametrize("name", MODELS)
def test_a_reset_makes_the_policy_the_reference(name, build):
    model = MODELS[name]()
    policy = build(model)
    reference = Reference(policy, build)
    train(model, seed=3)
    policy.refresh()
    reference.mix(1.0)
    now = plain_logprobs(model)
    assert_same(reference.score(ROWS, SCORING).logprob_NT, now)
    train(model, seed=4)
    policy.refresh()
    assert_same(reference.score(ROWS, SCORING).logprob_NT, now)


@pytest.mark.parametrize("name", MODELS)
def test_its_state_brings_it_back(name, build):
    model = MODELS[name]()
    reference = Reference(build(model), build)
    train(model, seed=5)
    reference.mix(0.5)
    other = Reference(build(MODELS[name]()), build)
    other.load_state_dict({n: t.clone() for n, t in reference.state_dict().items()})
    found = other.score(ROWS, SCORING).logprob_NT
    assert torch.equal(found, reference.score(ROWS, SCORING).logprob_NT)


def test_effective_weights_of_a_bfloat16_base_are_not_rounded():
    model = with_lora(tiny_model().bfloat16())
    expected = {n: w.float() for n, w in effective_weights(model).items()}
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16)
    merged = effective_model(model)
    torch.testing.assert_close(plain_logprobs(merged), plain_logprobs(effective_model(model.float())))
    for name, parameter in merged.named_parameters():
        assert parameter.dtype == torch.float32
        if "proj" in name:
            base = model.get_base_model().get_submodule(name.removesuffix(".weight"))
            wanted = base.base_layer.weight.float() + base.get_delta_weight("default")
            torch.testing.assert_close(parameter, wanted)
    assert expected
