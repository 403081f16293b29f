"""FlexAttention over a pack against the pack's own attention, in FlexAttention's written-out form on a CPU."""

from __future__ import annotations

import pytest
import torch
from tiny import random_rows

from groupwise.policy.attention import AttentionLayer
from groupwise.policy.flex import FlexAttention
from groupwise.policy.packing import Pack

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

HEADS, KV_HEADS, WIDTH = 4, 2, 16


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 6])
def test_it_is_the_attention_of_the_pack(window, softcap):
    pack = Pack(random_rows((23, 7, 90), ((9, 1, 30), (4, 12), (8,)), seed=1), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    tokens = len(pack.input_ids_P)
    q, k, v = (torch.randn(n, tokens, WIDTH, generator=generator) for n in (HEADS, KV_HEADS, KV_HEADS))
    layer = AttentionLayer(0, WIDTH**-0.5, window, softcap, None)
    found = FlexAttention(pack.segments, pack.position_ids_P).attend(layer, q, k, v)
    used = slice(0, tokens - pack.num_padding)
    torch.testing.assert_close(found[:, used], pack.attend(layer, q, k, v)[:, used], rtol=0, atol=1e-5)
    assert found.isfinite().all()


def test_it_leaves_attention_sinks_alone():
    pack = Pack(random_rows(), torch.device("cpu"))
    layer = AttentionLayer(0, 1.0, None, None, torch.zeros(HEADS))
    q, k = torch.zeros(HEADS, 64, WIDTH), torch.zeros(KV_HEADS, 64, WIDTH)
    assert FlexAttention(pack.segments, pack.position_ids_P).attend(layer, q, k, k) is None
