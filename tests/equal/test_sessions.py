"""A turn that goes on from kept keys and values is the turn that is prefilled with its whole history."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import EOS, random_ids, tiny_model

from groupwise.policy.fused_model import FusedModel
from groupwise.rollout.native import NativeEngine
from groupwise.rollout.native.generation import Generation
from groupwise.types import Completion, Request, Sampling

from .test_architectures import FAST, lora_model

SAMPLING = Sampling(max_tokens=7, stop_ids=(EOS,))


def native(model, **settings) -> NativeEngine:
    engine = NativeEngine(FusedModel(model, torch.float32), **settings)
    engine.load_weights(None, 0)
    return engine


def play(engine: NativeEngine, *, with_session: bool, turns: int = 3) -> list[Completion]:
    """Every turn of two groups of three, each going on from what was sampled and some given tokens."""
    generator = torch.Generator().manual_seed(7)
    prompts = [random_ids(generator, 21), random_ids(generator, 9)]
    given = [[random_ids(generator, 4 + row % 3) for row in range(6)] for _ in range(turns)]
    first = [
        Request(prompt, 3, SAMPLING, seed=(1, number), session=(1, number) if with_session else None)
        for number, prompt in enumerate(prompts)
    ]
    found = dict(engine.generate(first))
    last = [completion for number in sorted(found) for completion in found[number]]
    texts = [prompts[row // 3] for row in range(6)]
    every = list(last)
    for turn in range(1, turns):
        texts = [text + c.token_ids + new for text, c, new in zip(texts, last, given[turn], strict=True)]
        requests = [
            Request(text, 1, SAMPLING, seed=(1, row // 3, row % 3, turn), max_tokens=3 + row,
                    session=(1, row // 3, row % 3) if with_session else None)
            for row, text in enumerate(texts)
        ]  # fmt: skip
        found = dict(engine.generate(requests))
        last = [found[row][0] for row in range(6)]
        every += last
    return every


def assert_same(found: list[Completion], expected: list[Completion]) -> None:
    assert [c.token_ids for c in found] == [c.token_ids for c in expected]
    for one, other in zip(found, expected, strict=True):
        logprobs = torch.tensor(one.rollout_logprob), torch.tensor(other.rollout_logprob)
        torch.testing.assert_close(*logprobs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", FAST)
def test_a_session_changes_no_token(name):
    model = lora_model(name)
    assert_same(play(native(model), with_session=True), play(native(model), with_session=False))


@pytest.mark.parametrize("settings", [{"records": True}, {"max_concurrent": 2}], ids=["static", "few rows"])
def test_it_does_not_matter_how_rows_are_decoded(settings):
    model = tiny_model("gemma3")
    assert_same(play(native(model, **settings), with_session=True), play(native(model), with_session=False))


def test_only_what_is_new_is_prefilled(monkeypatch):
    passes = []
    before = Generation._prefill_pass

    def count(self, batch):
        passes.append([len(part.ids) for part in batch])
        before(self, batch)

    monkeypatch.setattr(Generation, "_prefill_pass", count)
    play(native(tiny_model()), with_session=True)
    assert passes[0] == [21, 9]
    assert len(passes) == 3
    assert all(length <= 7 + 6 for lengths in passes[1:] for length in lengths)


def test_nothing_outlives_the_weights():
    """New weights under old keys would be another model."""
    model = tiny_model()
    engine = native(model)
    play(engine, with_session=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    engine.load_weights(None, 1)
    assert_same(play(engine, with_session=True), [replace(c) for c in play(native(model), with_session=False)])


def test_what_is_kept_has_a_bound():
    engine = native(tiny_model())
    engine.sessions.kept_tokens = 60
    assert_same(play(engine, with_session=True), play(native(tiny_model()), with_session=False))
    assert sum(len(text.token_ids) for text in engine.sessions._texts.values()) <= 60


def test_another_text_of_the_same_session_begins_anew():
    engine = native(tiny_model())
    texts = (9, 10, 11, 12), (9, 10, 13, 14, 15)
    one, other = (Request(ids, 1, SAMPLING, seed=(3,), session=(5, 5)) for ids in texts)
    dict(engine.generate([one]))
    found = dict(engine.generate([other]))[0]
    assert_same(found, dict(native(tiny_model()).generate([replace(other, session=None)]))[0])
