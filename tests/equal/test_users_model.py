"""The user's model comes back as it was, with other numbers in its trained tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import random_rows, tiny_model, with_lora

from groupwise.policy.fused_model import FusedModel
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.rollout.native import NativeEngine
from groupwise.types import Request, Sampling

ROWS = random_rows()


def use(model: Any) -> None:
    """A rollout and an optimizer step on the fast path."""
    policy_model = PolicyModel(model, torch.float32, FusedModel(model, torch.float32))
    engine = NativeEngine(policy_model.fused)
    engine.load_weights(policy_model, 0)
    list(engine.generate([Request(ROWS.prompt_ids[0], 2, Sampling(max_tokens=4))]))
    with policy_model.pass_over(ROWS, Scoring()) as scores:
        scores.logprob_NT.sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01).step()
    engine.load_weights(policy_model, 1)


@pytest.mark.parametrize("name", ["llama", "llama-bias", "llama-tied", "qwen3-moe", "gemma3", "gpt-oss"])
def test_the_compute_model_shares_every_tensor(name):
    model = tiny_model(name)
    theirs = {p.data_ptr() for p in [*model.parameters(), *model.buffers()] if p.numel()}
    fused = FusedModel(model, torch.float32)
    left = {p.data_ptr() for p in [*fused.model.parameters(), *fused.model.buffers()] if p.numel()}
    inside = {p.data_ptr() for linear in fused.linears for p in linear.parameters}
    assert left | inside == theirs
    assert {id(p) for p in model.parameters()} >= {id(p) for p in fused.model.parameters()}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("wrap", [lambda m: m, with_lora], ids=["full", "lora"])
def test_names_attention_mode_and_modules_stay(implementation, wrap):
    model = wrap(tiny_model("llama", attn_implementation=implementation)).train()
    names, modules = list(model.state_dict()), [type(m) for m in model.modules()]
    values = {n: p.clone() for n, p in model.named_parameters()}
    storages = {n: p.data_ptr() for n, p in model.named_parameters()}
    use(model)
    assert list(model.state_dict()) == names
    assert [type(m) for m in model.modules()] == modules
    assert model.config._attn_implementation == implementation
    assert all(m.training for m in model.modules())
    assert {n: p.data_ptr() for n, p in model.named_parameters()} == storages
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, values[n])}
    assert changed == {n for n, p in model.named_parameters() if p.requires_grad}


def test_merging_is_exact_and_leaves_the_base_as_it_was():
    base = tiny_model("llama")
    weights = {n: p.detach().clone() for n, p in base.named_parameters()}
    model = with_lora(base)
    use(model)
    ids = torch.tensor([ROWS.prompt_ids[0]])
    trained = model(ids).logits
    with model.disable_adapter():
        torch.testing.assert_close(model(ids).logits, tiny_model("llama")(ids).logits, rtol=0, atol=0)
    frozen = {n.replace("base_model.model.", "").replace(".base_layer", ""): p for n, p in model.named_parameters()}
    assert all(torch.equal(frozen[n], w) for n, w in weights.items())
    merged = model.merge_and_unload()
    assert list(merged.state_dict()) == list(weights)
    torch.testing.assert_close(merged(ids).logits, trained, rtol=1e-5, atol=2e-5)


def test_two_networks_of_one_model_do_not_disturb_each_other():
    model = with_lora(tiny_model("llama"))
    first = PolicyModel(model, torch.float32, FusedModel(model, torch.float32))
    expected = first.score(ROWS, Scoring()).logprob_NT
    second = PolicyModel(model, torch.float32, FusedModel(model, torch.float32))
    with second.adapters_off():
        off = second.score(ROWS, Scoring()).logprob_NT
        assert torch.equal(first.score(ROWS, Scoring()).logprob_NT, expected)
    assert (off - expected).abs().max() > 0.1
    assert torch.equal(second.score(ROWS, Scoring()).logprob_NT, expected)
