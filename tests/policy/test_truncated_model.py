"""The truncated model that the fast path is compared on: every kind of layer, and the model's own tensors."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_model, with_lora

from groupwise.policy.truncated_model import truncate_layers


def num_layers(model: torch.nn.Module) -> int:
    short = truncate_layers(model)
    ids = torch.arange(3, 9)[None]
    assert short(input_ids=ids).logits.shape == model(input_ids=ids).logits.shape
    shared = {id(p) for p in model.parameters()}
    assert all(id(p) in shared for p in short.parameters())
    base = short.get_base_model() if hasattr(short, "peft_config") else short
    assert base.config.num_hidden_layers == len(base.model.layers)
    return len(base.model.layers)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("llama", {}, 2),
        ("mistral-window", {}, 2),
        ("gemma3", {"layer_types": ["sliding_attention"] * 4 + ["full_attention"] + ["sliding_attention"]}, 5),
        ("qwen3-moe", {"mlp_only_layers": [3]}, 4),
    ],
)
def test_it_has_every_kind_of_layer_and_no_more(name, options, expected):
    model = tiny_model(name, num_hidden_layers=6, **options)
    assert num_layers(model) == expected
    assert len(model.model.layers) == model.config.num_hidden_layers == 6


def test_adapters_make_kinds_too():
    assert num_layers(with_lora(tiny_model("llama", num_hidden_layers=6))) == 2
    some = {"target_modules": ["q_proj"], "layers_to_transform": [3]}
    assert num_layers(with_lora(tiny_model("llama", num_hidden_layers=6), **some)) == 4
