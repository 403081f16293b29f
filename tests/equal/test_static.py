"""Decoding over static buffers samples what decoding by single operations samples, and nothing of it ever moves."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
from tiny import EOS, random_rows, tiny_model, tiny_tokenizer, with_lora
from torch.utils._python_dispatch import TorchDispatchMode

from groupwise.policy.backend import GPU, backend_override
from groupwise.policy.fused_model import FusedModel
from groupwise.rollout.native import NativeEngine, generation
from groupwise.rollout.native.recorder import Recorder
from groupwise.rollout.native.static_grid import BLOCK, Bucket, StaticGrid, sample_cache
from groupwise.rollout.sequences import new_sequences
from groupwise.types import Completion, Request, Sampling

PROMPTS = [random_rows((n,), ((1,),), seed=n).prompt_ids[0] for n in (9, 1, 17, 70, 4)]
PLAIN = Sampling(max_tokens=60, stop_ids=(EOS, 7, 9))
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "_unique2", "unique_consecutive"}
"""Operations in which the host waits for a GPU, besides copies."""


@pytest.fixture(autouse=True)
def _as_a_gpu() -> Iterator[None]:
    with backend_override(GPU):
        yield


class Waits(TorchDispatchMode):
    """Counts in what operations the host would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indexed = func.overloadpacket.__name__ in ("index", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        self.count += indexed or func.overloadpacket.__name__ in WAITS
        return func(*args, **(kwargs or {}))


def engines(name: str = "llama", dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[NativeEngine, ...]:
    """Over static buffers, and by single operations, on one model."""
    fused = FusedModel(with_lora(tiny_model(name)), dtype)
    made = [NativeEngine(fused, records=records, **settings) for records in (True, False)]
    for engine in made:
        engine.load_weights(None, version=0)
    return tuple(made)


def requests(sampling: Sampling, step: int = 0, counts: tuple[int, ...] = (4, 1, 3, 5, 2)) -> list[Request]:
    decode = tiny_tokenizer().decode
    pairs = zip(PROMPTS, counts, strict=True)
    return [Request(p, count, sampling, seed=(step, n), decode=decode) for n, (p, count) in enumerate(pairs)]


def answers(engine: NativeEngine, asked: list[Request]) -> list[Completion]:
    found = dict(engine.generate(asked))
    return list(chain.from_iterable(found[n] for n in range(len(asked))))


def assert_same(mine: list[Completion], theirs: list[Completion], atol: float = 2e-5) -> None:
    assert [(c.token_ids, c.stop_reason, c.kept_ids) for c in mine] == [
        (c.token_ids, c.stop_reason, c.kept_ids) for c in theirs
    ]
    for a, b in zip(mine, theirs, strict=True):
        assert a.rollout_logprob == pytest.approx(b.rollout_logprob, abs=atol)


@functools.cache
def expected(name: str, sampling: Sampling = PLAIN) -> tuple[list[Completion], ...]:
    """Group by group, what single operations sample of five completions for each prompt."""
    _, single = engines(name)
    found = dict(single.generate(requests(sampling, counts=(5,) * len(PROMPTS))))
    return tuple(found[number] for number in range(len(PROMPTS)))


@pytest.mark.parametrize(
    ("max_concurrent", "counts"), [(1, (2, 1, 1, 1, 1)), *((most, (4, 1, 3, 5, 2)) for most in (4, 6, 64))]
)
@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma3", "gemma2", "gpt-oss"])
def test_it_samples_what_single_operations_sample(name: str, max_concurrent: int, counts: tuple[int, ...]) -> None:
    static, _ = engines(name, max_concurrent=max_concurrent)
    theirs = chain.from_iterable(group[:n] for group, n in zip(expected(name), counts, strict=True))
    assert_same(answers(static, requests(PLAIN, counts=counts)), list(theirs))
    assert static.decoder is not None
    assert static.decoder.recorder.num_recorded > 0


@pytest.mark.parametrize(
    "sampling",
    [
        replace(PLAIN, temperature=0.6),
        replace(PLAIN, temperature=0.0),
        replace(PLAIN, stop=("a", "b ", "?", "x", "9")),
        replace(PLAIN, stop_ids=()),
        replace(PLAIN, stop_ids=(), max_tokens=140),
        replace(PLAIN, max_tokens=1),
        replace(PLAIN, max_tokens=2),
        replace(PLAIN, max_tokens=9),
    ],
    ids=["temperature", "greedy", "stop strings", "no end", "caches grow", "one token", "two tokens", "one block"],
)
def test_every_way_of_ending_is_the_same(sampling: Sampling) -> None:
    static, single = engines(max_concurrent=6)
    assert_same(answers(static, requests(sampling)), answers(single, requests(sampling)))


@pytest.mark.parametrize("restriction", [{"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"repetition_penalty": 1.3}])
def test_what_a_recorded_step_cannot_draw_is_drawn_by_single_operations(restriction: dict[str, Any]) -> None:
    static, single = engines()
    asked = requests(replace(PLAIN, **restriction))
    assert_same(answers(static, asked), answers(single, asked))
    assert static.decoder is not None
    assert static.decoder.recorder.num_recorded == 0


def test_two_calls_at_a_time_do_not_share_buffers() -> None:
    static, single = engines(max_concurrent=2)
    asked = requests(PLAIN)
    calls = [static.generate(asked), static.generate(asked)]
    found: list[dict[int, list[Completion]]] = [{}, {}]
    for pair in zip(*calls, strict=True):
        for answered, (number, group) in zip(found, pair, strict=True):
            answered[number] = group
    expected = answers(single, asked)
    for answered in found:
        assert_same(list(chain.from_iterable(answered[n] for n in range(len(asked)))), expected)
    next(static.generate(asked))  # a call that nobody reads to its end gives the buffers back
    assert_same(answers(static, asked), expected)


@pytest.mark.parametrize("is_lora", [True, False])
def test_fifty_steps_record_once_a_bucket_and_nothing_moves(is_lora: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows end at random times, weights change after every step, and every tenth step evaluates.

    Operations are counted in that step alone: no operation depends on a number but through one that is counted.
    """
    model = tiny_model(num_hidden_layers=1)
    model = with_lora(model) if is_lora else model
    fused, recorder = FusedModel(model, torch.float32), Recorder()
    sampling = replace(PLAIN, max_tokens=24)
    engine = NativeEngine(fused, max_concurrent=12, recorder=recorder)
    looks, waits = {"static": 0, "first": 0}, Waits()
    launch, first = StaticGrid.launch, generation.draw_tokens

    def counted_launch(*arguments: Any) -> Any:
        looks["static"] += 1
        with waits if step % 10 == 0 else nullcontext():
            return launch(*arguments)

    def counted_first(*arguments: Any) -> None:
        looks["first"] += 2  # tokens and log-probs
        first(*arguments)

    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda *_: True)  # as it is while a graph is recorded
    monkeypatch.setattr(StaticGrid, "launch", counted_launch)
    monkeypatch.setattr(generation, "draw_tokens", counted_first)
    places: dict[Any, dict[str, int]] = {}
    weights: list[list[int]] = []
    tokens = 0
    for step in range(50):
        engine.load_weights(None, version=step)
        weights.append([t.data_ptr() for t in fused.tensors()])
        tokens += sum(len(c.token_ids) for c in answers(engine, requests(sampling, step)))
        if step % 10 == 0:
            answers(engine, requests(replace(sampling, temperature=0.0), 0, (1,) * 5))
        assert engine.decoder is not None
        for bucket, grid in engine.decoder.grids.items():
            found = {name: tensor.data_ptr() for name, tensor in grid.tensors.items()}
            assert places.setdefault(bucket, found) == found
        with torch.no_grad():
            for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 * step + number))
                parameter += 1e-3 * noise
    assert waits.count == 0
    assert recorder.num_recorded == len(places) >= 3
    assert all(place == weights[0] for place in weights)
    assert sum(looks.values()) <= tokens / BLOCK


@pytest.mark.parametrize("is_greedy", [True, False])
@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral-window", "gemma2", "gpt-oss"])
def test_a_step_mixes_no_devices_and_waits_for_no_number(
    name: str, is_greedy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the device `meta` numbers do not exist: whoever asks for one fails, and so does who mixes it with a CPU."""
    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda *_: True)  # as it is while a graph is recorded
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # fails on `meta`; transformers 5.0 calls it
    fused = FusedModel(on_meta(with_lora(tiny_model(name)).bfloat16()), torch.bfloat16)
    fused.refresh(pack=True)
    rows = new_sequences(0, Request((3, 4, 5), 4, PLAIN))
    for row in rows:
        row.token_ids.append(6)
    with torch.inference_mode():
        like = sample_cache(fused)
        assert like is not None
        small, large = (
            StaticGrid(fused, Bucket(rows, 4, 64, own, is_greedy), like) for rows, own in ((8, 32), (16, 64))
        )
        small.set_sampling(PLAIN)
        small.set_prompts({0: like})
        small.set_rows([*rows, *[None] * 4])
        large.take_rows(small, [(1, 0), (2, 3)])
        for grid in (small, large):
            grid._step()
            assert {tensor.device.type for key, tensor in grid.tensors.items() if key != "seen_A2BR"} == {"meta"}


def on_meta(model: Any) -> Any:
    """The model with its tensors on the device `meta`; the adapters in float32."""
    for module in model.modules():
        for key, parameter in list(module._parameters.items()):
            if parameter is not None:
                dtype = torch.float32 if parameter.requires_grad else parameter.dtype
                moved = torch.empty(parameter.shape, dtype=dtype, device="meta")
                module._parameters[key] = torch.nn.Parameter(moved, requires_grad=parameter.requires_grad)
        for key, buffer in list(module._buffers.items()):
            module._buffers[key] = None if buffer is None else buffer.to("meta")
    return model


def test_weights_that_moved_are_recorded_again() -> None:
    model = tiny_model()
    engine = NativeEngine(FusedModel(model, torch.float32))
    asked = requests(PLAIN)
    engine.load_weights(None, version=0)
    before = answers(engine, asked)
    assert engine.decoder is not None
    number = engine.decoder.recorder.num_recorded
    engine.load_weights(None, version=1)
    assert_same(answers(engine, asked), before)
    assert engine.decoder.recorder.num_recorded == number
    norm = model.model.norm.weight
    norm.data = 1.5 * norm.data
    engine.load_weights(None, version=2)
    answers(engine, asked)
    assert engine.decoder.recorder.num_recorded > number
