"""A model that does not earn its fast path is told why in one sentence, and is sampled and scored by its own code."""

from __future__ import annotations

import re

import pytest
import torch
from tiny import random_rows, tiny_model, tiny_tokenizer, with_lora
from torch.nn.utils.rnn import pad_sequence

from groupwise.config import GRPOConfig
from groupwise.errors import ConfigError
from groupwise.lifecycle.build import make_policy
from groupwise.notes import shown_by
from groupwise.policy import packing
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import Scoring
from groupwise.rollout.fastpath import build_policy_model, why_not_fast
from groupwise.rollout.plain import PlainEngine
from groupwise.types import Request, Sampling

SLOW = {
    "convolution": (lambda: tiny_model("lfm2"), "differ from the model's own by"),
    "adapter on experts": (lambda: with_lora(tiny_model("qwen3-moe")), "LoRA wraps a ParamWrapper"),
    "dora": (lambda: with_lora(tiny_model(), use_dora=True), "not plain, unmerged LoRA"),
    "embedding adapter": (
        lambda: with_lora(tiny_model(), target_modules=["q_proj", "embed_tokens"]),
        "LoRA wraps a Embedding",
    ),
}


@pytest.mark.parametrize("name", SLOW)
def test_the_reason_is_one_sentence_and_the_slow_path_is_exact(name):
    make, reason = SLOW[name]
    model, said = make(), []
    with shown_by(said.append):
        policy_model = build_policy_model(model, torch.float32)
    assert policy_model.fused is None
    assert len(said) == 1
    assert reason in said[0]
    assert re.fullmatch(r"This model takes the slow path .*[^.]\.", said[0])

    engine = PlainEngine(model, torch.float32)
    prompts = random_rows().prompt_ids
    requests = [Request(prompts[i], 3, Sampling(max_tokens=6), seed=(i,)) for i in (0, 3)]
    pairs = [(n, c) for n, group in engine.generate(requests) for c in group]
    rows = CompletionRows(
        [requests[n].prompt_ids for n, _ in pairs], [c.token_ids for _, c in pairs], [n for n, _ in pairs]
    )
    rollout_NT = pad_sequence([torch.tensor(c.rollout_logprob) for _, c in pairs], batch_first=True)
    torch.testing.assert_close(policy_model.score(rows, Scoring()).logprob_NT, rollout_NT, rtol=0, atol=2e-5)


def test_a_wrong_fast_path_is_found_out(monkeypatch):
    """The comparison at load has teeth: one mask that is off by a token is enough."""
    right = packing.causal_mask

    def off_by_one(num_queries, num_keys, window, device):
        return right(num_queries, num_keys, None if window is None else window + 1, device)

    model = tiny_model("mistral-window")
    assert why_not_fast(model) is None
    monkeypatch.setattr(packing, "causal_mask", off_by_one)
    assert "packed log-probs differ" in why_not_fast(model)


def test_engine_native_refuses_a_model_without_a_fast_path():
    config = GRPOConfig(engine="native", dtype="float32").settings
    with pytest.raises(ConfigError, match="engine: native cannot run this model: packed log-probs differ"):
        make_policy(tiny_model("lfm2"), "lfm2", tiny_tokenizer(), config)
