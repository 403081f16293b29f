"""Attention with everything a layer may ask for, against its formula; what it may not ask for is refused."""

from __future__ import annotations

import pytest
import torch
from tiny import random_rows, tiny_model
from torch import Tensor, nn

from groupwise.policy.attention import AttentionLayer, attend, causal_mask, dot_product_attention, install
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.packing import Pack


def formula(layer: AttentionLayer, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, mask: Tensor) -> Tensor:
    """One head and one query at a time."""
    out = torch.zeros(*q_HTD.shape[:2], v_KTD.shape[-1])
    per_key_head = q_HTD.shape[0] // k_KTD.shape[0]
    for h in range(q_HTD.shape[0]):
        for t in range(q_HTD.shape[1]):
            scores = layer.scaling * (k_KTD[h // per_key_head] @ q_HTD[h, t])
            if layer.softcap is not None:
                scores = layer.softcap * torch.tanh(scores / layer.softcap)
            weights = scores[mask[t]].exp()
            sink = 0.0 if layer.sinks_H is None else layer.sinks_H[h].exp()
            out[h, t] = (weights / (weights.sum() + sink)) @ v_KTD[h // per_key_head][mask[t]]
    return out


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_it_equals_the_formula(window, softcap, has_sinks):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(heads, 6, 8, generator=generator) for heads in (4, 2, 2))
    layer = AttentionLayer(0, 0.4, window, softcap, torch.randn(4, generator=generator) if has_sinks else None)
    mask = causal_mask(6, 6, window, q.device)
    found = dot_product_attention(layer, q[None], k[None], v[None], mask)[0]
    torch.testing.assert_close(found, formula(layer, q, k, v, mask), rtol=1e-5, atol=1e-5)


def test_an_unknown_keyword_is_refused_by_name():
    module = nn.Module()
    module.layer_idx = 0
    install(module)
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(NotImplementedError, match="passes block_size, cu_lens, which packed attention does not know"):
        attend(module, q, q, q, cu_lens=1, block_size=2, position_ids=q, nothing=None)


def test_a_plan_ends_with_its_pass_even_when_the_pass_fails():
    fused = FusedModel(tiny_model(), torch.float32)
    pack = Pack(random_rows(), torch.device("cpu"))
    with pytest.raises(IndexError):
        fused.hidden(pack.input_ids_P + 1000, pack.position_ids_P, pack)
    with pytest.raises(AssertionError, match="needs a plan"):
        fused.backbone(input_ids=torch.zeros(1, 2, dtype=torch.long), use_cache=False)
