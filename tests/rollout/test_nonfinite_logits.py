"""Logits that are not finite end a rollout with a sentence: the token, its row, and where in the model it begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from api_helpers import trainer
from tiny import PAD, tiny_model, with_lora
from torch import nn

from groupwise.errors import RolloutError
from groupwise.kernels import build
from groupwise.kernels import head as kernel
from groupwise.policy.fused_model import FusedModel
from groupwise.rollout.engine import Engine
from groupwise.rollout.native import NativeEngine
from groupwise.rollout.plain import PlainEngine
from groupwise.rollout.sampler import sample
from groupwise.runs.reader import RunReader
from groupwise.types import Request, Sampling

WAYS = {
    "full": Sampling(max_tokens=6),
    "hot": Sampling(max_tokens=6, temperature=1.7),
    "greedy": Sampling(max_tokens=6, temperature=0.0),
    "top_k": Sampling(max_tokens=6, top_k=5),
    "top_p": Sampling(max_tokens=6, top_p=0.9),
    "min_p": Sampling(max_tokens=6, min_p=0.1),
    "penalty": Sampling(max_tokens=6, repetition_penalty=1.3),
}
PROMPT = (5, 9, 30, 12, 44)
DAMAGE: dict[str, tuple[str, float]] = {
    "down_proj": ("model.layers.1.mlp.down_proj.weight", math.nan),
    "q_proj": ("model.layers.0.self_attn.q_proj.weight", math.inf),
    "norm": ("model.norm.weight", -math.inf),
    "lm_head": ("lm_head.weight", math.nan),
    "embed_tokens": ("model.embed_tokens.weight", math.nan),
}


def model_with_kernels() -> Any:
    return tiny_model(intermediate_size=64)


def damaged(name: str) -> Any:
    """A model with one number that is not finite: in the row of a token of the prompt where it is an embedding."""
    model = model_with_kernels()
    weight, value = DAMAGE[name]
    with torch.no_grad():
        model.get_parameter(weight).view(-1)[PROMPT[0] * 32 + 3 if name == "embed_tokens" else 3] = value
    return model


def native(model: Any) -> Engine:
    engine = NativeEngine(FusedModel(model, torch.float32))
    engine.load_weights(None, 0)
    return engine


ENGINES: dict[str, Callable[[Any], Engine]] = {
    "native": native,
    "plain": lambda model: PlainEngine(model, torch.float32),
}


def failure(engine: Engine, sampling: Sampling, prompt: tuple[int, ...] = PROMPT) -> str:
    request = Request(prompt, 3, sampling, label="row 7 of the data")
    with pytest.raises(RolloutError) as error:
        list(engine.generate([request]))
    return str(error.value)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", DAMAGE)
def test_the_damaged_weight_is_named(name: str, engine: str) -> None:
    said = failure(ENGINES[engine](damaged(name)), WAYS["full"])
    assert said.startswith("Token 1 of completion 1 of row 7 of the data cannot be drawn: its logits are not finite. ")
    module, _, weight = DAMAGE[name][0].rpartition(".")
    assert f"is first seen in the output of {module}, whose {weight} is not finite" in said


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", WAYS)
def test_no_way_of_drawing_passes_over_a_single_logit_that_is_not_finite(way: str, engine: str) -> None:
    for place in (0, 17, 63):
        model = model_with_kernels()
        with torch.no_grad():
            model.lm_head.weight[place] = math.nan
        assert "first seen in the output of lm_head" in failure(ENGINES[engine](model), WAYS[way])


def test_it_is_told_at_the_token_where_it_begins() -> None:
    """A number that only a later token brings up."""
    for make in ENGINES.values():
        model = model_with_kernels()
        greedy = Sampling(max_tokens=8, temperature=0.0)
        ((_, (completion, *_)),) = make(model).generate([Request(PROMPT, 1, greedy)])
        third = completion.token_ids[2]
        assert third not in PROMPT + completion.token_ids[:2]
        with torch.no_grad():
            model.model.embed_tokens.weight[third] = math.nan
        said = failure(make(model), greedy)
        assert "Token 4 of completion 1 " in said
        assert "model.embed_tokens" in said


@pytest.mark.parametrize("use", ["infinite", "minus infinity everywhere"])
def test_infinite_logits_are_not_finite_either(use: str) -> None:
    for sampling in WAYS.values():
        logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
        logits[1] = -math.inf if use.startswith("minus") else logits[1].index_fill(0, torch.tensor([7]), math.inf)
        drawn = sample(logits, sampling, np.array([0.3, 0.6]))
        assert [math.isfinite(x) for x in drawn.logprob_R] == [True, False]


def test_a_masked_vocabulary_is_drawn_from_as_before() -> None:
    for sampling in WAYS.values():
        logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
        logits[:, 200:] = -math.inf
        drawn = sample(logits, sampling, np.array([0.3, 0.9999]))
        assert all(math.isfinite(x) for x in drawn.logprob_R)
        assert max(drawn.token_R) < 200


@pytest.mark.skipif(build.compiled(torch.float32) is None, reason="no kernels here")
@pytest.mark.parametrize("vocabulary", [64, 1000, 49_152])
def test_the_kernel_draws_no_token_with_a_finite_log_prob_beside_nan(vocabulary: int) -> None:
    for place in (0, 5, 16, vocabulary // 2, vocabulary - 1):
        for value in (math.nan, math.inf):
            logits = torch.randn(2, vocabulary, generator=torch.Generator().manual_seed(0))
            logits[0, place] = value
            token_R, logprob_R = kernel.draw(logits, 0.8, torch.tensor([0.4, 0.4], dtype=torch.float64), torch.float32)
            assert 0 <= int(token_R[0]) < vocabulary
            assert not math.isfinite(float(logprob_R[0]))
            expected = (logits[1] / 0.8).log_softmax(-1)[token_R[1]]
            assert float(logprob_R[1]) == pytest.approx(float(expected), abs=1e-4)


def test_an_overflow_of_float16_is_told_as_such() -> None:
    model = tiny_model()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight *= 3e4
    model.half()
    said = failure(PlainEngine(model, torch.float32), WAYS["full"])
    assert "beyond the range of float16" in said
    assert "dtype: float32" in said


def test_dora_over_a_row_of_zeros_is_told() -> None:
    base = tiny_model()
    with torch.no_grad():
        base.lm_head.weight[PAD] = 0
    model = with_lora(base, target_modules=["lm_head"], use_dora=True, is_learnt=False)
    said = failure(PlainEngine(model, torch.float32), WAYS["full"])
    assert "NaN is first seen in the output of base_model.model.lm_head.lora_magnitude_vector" in said
    assert "DoRA" in said


@pytest.mark.parametrize("engine", ENGINES)
def test_a_temperature_that_overflows_is_told_apart_from_the_model(engine: str) -> None:
    tiny_temperature = replace(WAYS["full"], temperature=1e-40)
    said = failure(ENGINES[engine](model_with_kernels()), tiny_temperature)
    assert "They are finite in a pass of the model's own code" in said
    assert "temperature (1e-40)" in said
    almost_greedy = replace(WAYS["full"], temperature=1e-6)
    for _, completions in ENGINES[engine](model_with_kernels()).generate([Request(PROMPT, 2, almost_greedy)]):
        assert all(math.isfinite(x) for c in completions for x in c.rollout_logprob)


@pytest.mark.parametrize("settings", [{}, {"engine": "transformers"}, {"top_p": 0.9}], ids=["native", "plain", "top_p"])
def test_a_run_names_the_row_of_the_data(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match=r"of row \d of the data cannot be drawn.*model\.layers\.1\.mlp\.down_proj"):
        trainer(tmp_path, model=damaged("down_proj"), **settings).train()
    assert RunReader(tmp_path).metrics() == []


def test_a_model_that_breaks_while_it_trains_keeps_its_finished_steps(tmp_path: Path) -> None:
    grpo = trainer(tmp_path, model=model_with_kernels(), max_steps=4)
    load_weights = grpo.parts.engine.load_weights

    def breaking(policy: Any, version: int) -> None:
        if version == 2:
            nn.init.constant_(grpo.model.model.norm.weight, math.nan)
        load_weights(policy, version)

    grpo.parts.engine.load_weights = breaking
    with pytest.raises(RolloutError, match=r"model\.norm, whose weight is not finite"):
        grpo.train()
    assert [record["step"] for record in RunReader(tmp_path).metrics()] == [1, 2]
