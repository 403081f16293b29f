"""The decode kernel against what it replaces: as near to float32 as the eager pass, and row by row independent."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import random_rows, tiny_model, with_lora

from groupwise import kernels
from groupwise.kernels import build, head, structs
from groupwise.kernels.decode import DecodeLayers, KVCaches, LayerWeights, LinearWeights
from groupwise.kernels.panels import PanelCache
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.rollout.native import NativeEngine
from groupwise.rollout.native.kv_cache import DecodePlan, PromptCache
from groupwise.rollout.sampler import invert_cdf
from groupwise.types import Request, Sampling

DTYPES = [dtype for dtype in (torch.bfloat16, torch.float32) if kernels.compiled(dtype) is not None]
"""Of the factors that this processor has kernels for."""
needs_kernels = pytest.mark.skipif(not DTYPES, reason=f"no kernels: {kernels.why_unavailable(torch.float32)}")

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
SAME = ("llama", "llama-bias", "qwen2", "qwen3", "mistral", "mistral-window")
OTHER = ("gemma3", "olmo2", "phi3", "qwen3-moe", "granite")
PROMPTS = [random_rows((n,), ((1,),), seed=n).prompt_ids[0] for n in (9, 17, 4)]


PRODUCT_NAMES = ("qkv", "o", "gate_up", "down")


def model_of(name: str) -> Any:
    return with_lora(tiny_model(name, **SIZES))


def rollout_gap(fused: FusedModel, exact: PolicyModel) -> float:
    """Mean distance of the engine's log-probs from a float32 pass over the same tokens."""
    engine = NativeEngine(fused)
    engine.load_weights(None, version=0)
    sampling = Sampling(max_tokens=40, stop_ids=(5, 9))  # rows end at different times, until one prompt is left
    requests = [Request(p, 6, sampling, seed=(number,)) for number, p in enumerate(PROMPTS)]
    gaps = []
    for number, completions in engine.generate(requests):
        ids = [c.token_ids for c in completions]
        scores = exact.score(CompletionRows([requests[number].prompt_ids] * len(ids), ids, [0] * len(ids)), Scoring())
        rollout = [torch.tensor(c.rollout_logprob) for c in completions]
        gaps += [(scores.logprob_NT[n, : len(r)] - r).abs() for n, r in enumerate(rollout)]
    return float(torch.cat(gaps).mean())


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SAME)
def test_the_kernel_is_as_near_to_float32_as_the_eager_pass(name, dtype):
    model = model_of(name)
    exact = PolicyModel(model, torch.float32, None)
    eager, fast = (FusedModel(model, dtype) for _ in range(2))
    assert len(fast.kernel_layers) == model.config.num_hidden_layers
    eager.drop_kernels()
    assert not eager.kernel_layers
    gap = rollout_gap(fast, exact)
    assert 0 < gap < (5e-6 if dtype == torch.float32 else 1.25 * rollout_gap(eager, exact))


@needs_kernels
def test_decoding_follows_trained_weights_however_they_change():
    """Also through `.data`, which counts no version: a laid-out weight must not outlive the one it was made of."""
    if torch.float32 not in DTYPES:
        pytest.skip(f"no kernels: {kernels.why_unavailable(torch.float32)}")
    model = tiny_model("llama", **SIZES)
    exact, fast = PolicyModel(model, torch.float32, None), FusedModel(model, torch.float32)
    assert len(fast.kernel_layers) == model.config.num_hidden_layers
    assert rollout_gap(fast, exact) < 5e-6
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
    assert rollout_gap(fast, exact) < 5e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", OTHER)
def test_a_layer_of_another_make_keeps_its_own_code(name, dtype):
    model = tiny_model(name, **SIZES)
    assert FusedModel(model, dtype).kernel_layers == []


def random_layer(dtype: torch.dtype, rank: int = 6) -> LayerWeights:
    generator = torch.Generator().manual_seed(0)

    def linear(outputs: int, inputs: int) -> LinearWeights:
        w, a, b = (
            (torch.randn(*shape, generator=generator) / shape[1] ** 0.5).to(dtype)
            for shape in ((outputs, inputs), (rank, inputs), (outputs, rank))
        )
        return LinearWeights(w, a, b, None)

    ones = torch.ones(64)
    products = (linear(128, 64), linear(64, 64), linear(192, 64), linear(64, 96))
    return LayerWeights(*products, ones, ones, None, None, 4, 2, 16, 16, 1e-6, 0.25, None)


def run(layer: DecodeLayers, x_RI: torch.Tensor, kv: tuple[torch.Tensor, ...], slots: int) -> torch.Tensor:
    """One step of a grid that holds one prompt."""
    out, turn = x_RI.clone(), torch.linspace(0, 1, 16).repeat(len(x_RI), 1)
    own = [torch.zeros(2, slots, 32, 16) for _ in range(2)]
    start = torch.zeros(len(x_RI), dtype=torch.long)
    layer.run(out, turn.cos(), turn.sin(), KVCaches([(*kv, *own)], torch.tensor([5]), start, slots, 0))
    return out


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_its_batch_nor_on_the_number_of_threads(dtype):
    layer = DecodeLayers([random_layer(dtype)])
    x_RI, kv = torch.randn(13, 64), (torch.randn(2, 16, 16), torch.randn(2, 16, 16))
    together = run(layer, x_RI, kv, slots=13)
    assert (together - x_RI).abs().max() > 0.1
    for row in range(13):
        assert torch.equal(run(layer, x_RI[row : row + 1], kv, slots=1)[0], together[row])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(run(layer, x_RI, kv, slots=13), together)
    finally:
        torch.set_num_threads(threads)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
def test_many_rows_are_computed_as_few_are_to_rounding(dtype):
    layer = DecodeLayers([random_layer(dtype)])
    x_RI, kv = torch.randn(37, 64), (torch.randn(2, 16, 16), torch.randn(2, 16, 16))
    together = run(layer, x_RI, kv, slots=37)
    apart = torch.cat([run(layer, x_RI[row : row + 1], kv, slots=1) for row in range(37)])
    share = 0.02 if dtype == torch.bfloat16 else 1e-5
    assert (together - apart).abs().max() < share * (apart - x_RI).abs().max()


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [64, 90, 50])
def test_the_output_layer_gives_what_torch_gives(vocabulary, dtype):
    generator = torch.Generator().manual_seed(vocabulary)
    hidden = torch.randn(21, 64, generator=generator).to(dtype)
    weight = torch.randn(vocabulary, 64, generator=generator).to(dtype)
    bias = torch.randn(vocabulary, generator=generator)
    target = torch.randint(vocabulary, (21,), generator=generator)
    expected = hidden.float() @ weight.float().t() + bias
    z = head.logits(hidden, weight, bias, PanelCache())
    assert torch.allclose(z, expected, atol=1e-4)
    found = head.softmax(z, target, 0.7, dtype, with_weights=True)
    log_p = (expected / 0.7).log_softmax(-1)
    assert torch.allclose(found.logprob_N, log_p.gather(1, target[:, None])[:, 0], atol=1e-4)
    assert torch.allclose(found.entropy_N, -(log_p.exp() * log_p).sum(-1), atol=1e-4)
    weights = log_p - log_p.amax(-1, keepdim=True)
    assert found.weight_NV is not None
    assert torch.allclose(
        found.weight_NV.float(), weights.exp(), rtol=0.01 if dtype == torch.bfloat16 else 1e-4, atol=1e-5
    )
    assert torch.allclose(found.total_N, weights.exp().sum(-1), rtol=1e-4)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_second_call_changes_nothing_that_the_first_returned(dtype):
    weight, target = torch.randn(64, 64).to(dtype), torch.zeros(9, dtype=torch.long)

    def call() -> list[Any]:
        z = head.logits(torch.randn(9, 64).to(dtype), weight, None, PanelCache())
        found = head.softmax(z, target, 1.0, dtype, with_weights=True)
        return [z, found.weight_NV, found.logprob_N]

    returned = call()
    kept = [tensor.clone() for tensor in returned]
    assert not torch.equal(call()[0], kept[0])
    assert all(torch.equal(now, then) for now, then in zip(returned, kept, strict=True))


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_whose_structures_differ_are_refused_in_a_sentence(dtype, monkeypatch):
    class LinearStruct(ctypes.Structure):
        _fields_ = (*structs.LinearStruct._fields_[:-2], *reversed(structs.LinearStruct._fields_[-2:]))

    monkeypatch.setattr(structs, "STRUCTS", (LinearStruct, *structs.STRUCTS[1:]))
    monkeypatch.setattr(build, "_loaded", functools.cache(build._loaded.__wrapped__))
    assert build.compiled(dtype) is None
    expected = "the layout of Linear.is_low is 56 (bytes) in the compiled library and 48 in kernels/structs.py"
    assert build.why_unavailable(dtype) == expected
    fused = FusedModel(with_lora(tiny_model()), dtype)
    assert fused.kernel_layers == []
    assert "kernels/structs.py" in str(fused.why_no_kernels)
    engine = NativeEngine(fused)
    engine.load_weights(None, 0)
    assert len(list(engine.generate([Request((3, 4, 5), 2, Sampling(max_tokens=3))]))) == 1


def test_a_library_without_layout_is_refused():
    assert "Linear is unknown (bytes) in the compiled library" in str(structs.layout_difference(ctypes.CDLL(None)))


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [8, 256, 300, 5000])
def test_the_kernel_draws_what_torch_draws(vocabulary, dtype):
    """At the very end, where rounding decides, it is at least a token that has some weight."""
    z_RV = 4 * torch.randn(40, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    z_RV[:3, vocabulary // 2 :] = -200.0  # no weight at the end
    uniform_R = np.random.default_rng(vocabulary).random(40)
    uniform_R[[0, 3]], uniform_R[[1, 4]] = 0.0, np.nextafter(1.0, 0.0)
    token_R, logprob_R = head.draw(z_RV, 0.7, torch.from_numpy(uniform_R), dtype)
    expected_R, expected_logprob_R = invert_cdf(z_RV / 0.7, uniform_R)
    inside = torch.tensor([row not in (1, 4) for row in range(40)])
    assert torch.equal(token_R[inside], expected_R[inside])
    assert torch.allclose(logprob_R[inside], expected_logprob_R[inside], atol=1e-5)
    assert torch.equal(logprob_R > -60, torch.ones(40, dtype=torch.bool))


@pytest.mark.parametrize("cells", [1, 2])
def test_caches_that_moved_to_a_new_grid_are_contiguous(cells):
    prompts = [PromptCache(3, [(torch.randn(2, 3, 16), torch.randn(2, 3, 16))]) for _ in range(cells)]
    old, new = (DecodePlan(prompts, slots, torch.device("cpu"), max_tokens=32) for slots in (4, 2))
    old.caches([0], 2, 16).layers[0][2].copy_(torch.randn(2 * cells, 4, 32, 16))
    old.advance()
    new.take_rows(old, [4 * (row // 2) + row % 2 + 1 for row in range(2 * cells)])
    (tensors,) = new.caches([0], 2, 16).layers
    assert torch.equal(tensors[2][:, :, 0], old.own[0][0][:, 1:3, 0])
    assert all(t.is_contiguous() for t in tensors)


@needs_kernels
def test_weights_are_kept_in_half_the_bytes_only_where_that_is_exact():
    if torch.float32 not in DTYPES:
        pytest.skip(f"no kernels: {kernels.why_unavailable(torch.float32)}")
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(50, 64, generator=generator)
    rounded = exact.bfloat16().float()
    panels = PanelCache()
    assert panels.get(exact).dtype == torch.float32
    halves = panels.get(rounded)
    assert halves.dtype == torch.bfloat16
    assert torch.equal(halves.transpose(1, 2).flatten(0, 1)[:50].float(), rounded)
    bias, hidden = None, torch.randn(3, 64, generator=generator)
    assert torch.allclose(head.logits(hidden, rounded, bias, panels), hidden @ rounded.t(), atol=1e-4)
    rounded.mul_(2.0)  # another version of the same tensor
    assert torch.allclose(head.logits(hidden, rounded, bias, panels), hidden @ rounded.t(), atol=1e-4)


def from_4_bits(outputs: int, inputs: int, seed: int = 0) -> torch.Tensor:
    """bfloat16 weights as a Q4_1 file gives them: 32 codes, a step and a base in float16 a block."""
    generator = torch.Generator().manual_seed(seed)
    shape = (outputs, inputs // 32)
    codes = torch.randint(16, (*shape, 32), generator=generator).float()
    codes[..., 3], codes[..., 20] = 0.0, 15.0  # the file's blocks reach from the least to the largest
    codes[0, 0] = 0.0  # but one of a single number
    step, middle = (torch.rand(*shape, 1, generator=generator) for _ in range(2))
    step = (0.01 + 0.05 * step).half().float()
    base = -(step * (6.0 + 3.0 * middle)).half().float()
    return (codes * step + base).view(outputs, inputs).bfloat16()


needs_codes = pytest.mark.skipif(
    torch.bfloat16 not in DTYPES or "avx512_vbmi" not in Path("/proc/cpuinfo").read_text(),
    reason="this processor reads no weights of 4 bits",
)


class AsTheyLie(PanelCache):
    """Weights that are read as they are."""

    def get(self, weight_OI: torch.Tensor) -> torch.Tensor:
        return weight_OI


@needs_codes
@pytest.mark.parametrize("rows", [1, 8, 13, 40])
def test_weights_of_4_bits_are_computed_with_exactly_as_they_are(rows):
    weights = random_layer(torch.bfloat16)
    products = {
        name: from_4_bits(*getattr(weights, name).weight_OI.shape, seed) for seed, name in enumerate(PRODUCT_NAMES)
    }
    x_RI, kv = torch.randn(rows, 64), (torch.randn(2, 16, 16), torch.randn(2, 16, 16))
    found = []
    for panels in (PanelCache, AsTheyLie):
        linears = {
            name: replace(getattr(weights, name), weight_OI=weight, panels=panels())
            for name, weight in products.items()
        }
        assert all(w.structure()[0].is_low == (panels is PanelCache) for w in linears.values())
        found.append(run(DecodeLayers([replace(weights, **linears)]), x_RI, kv, slots=rows))
    assert (found[0] - x_RI).abs().max() > 0.1
    assert torch.equal(*found)


@needs_codes
@pytest.mark.parametrize("change", [1.01, float("nan"), float("inf"), 1e-30, -1.0])
def test_a_weight_with_one_number_that_4_bits_do_not_give_back_stays_as_it_is(change):
    weight = from_4_bits(64, 96)
    assert PanelCache().get(weight).dtype == torch.uint8
    weight[63, 70] *= change
    assert PanelCache().get(weight) is weight
    sizes = ((64, 48), (50, 64))  # no whole blocks, no whole panels
    assert all(PanelCache().get(from_4_bits(64, 64)[:o, :i].contiguous()).dtype == torch.bfloat16 for o, i in sizes)


@needs_kernels
@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"PATH": ""}, "there is no C++ compiler (install g++)"),
        ({"CXX": "no-such-compiler", "PATH": ""}, "there is no C++ compiler (install g++)"),
        ({"GROUPWISE_CACHE": "/proc/nowhere"}, "compiling them failed"),
        ({"HOME": "~", "GROUPWISE_CACHE": ""}, "no home to keep models in"),
    ],
)
def test_a_machine_that_cannot_compile_them_is_told_why(environment, why, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert why in build._loaded.__wrapped__(DTYPES[0])


PROCESSORS = [
    ("haswell", torch.float32, "AVX2"),
    ("skylake-avx512", torch.float32, "AVX-512"),
    ("cooperlake", torch.bfloat16, "AVX512-BF16 without VBMI"),
    ("icelake-server -mavx512bf16", torch.bfloat16, "both, without AMX"),
    ("sapphirerapids", torch.bfloat16, "AMX"),
]


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize(("processor", "dtype", "what"), PROCESSORS)
def test_the_kernels_compile_for_processors_with(processor, dtype, what):
    """A mistake in a branch that this machine does not take would cost others all kernels."""
    flags = [f for f in (*build.FLAGS, *build.FLAGS_OF[dtype]) if not f.startswith("-march")]
    command = ["c++", *flags, *f"-march={processor}".split(), "-fsyntax-only", *map(str, build.SOURCES)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, (what, found.stderr)


@pytest.mark.slow
@pytest.mark.skipif("amx_bf16" not in Path("/proc/cpuinfo").read_text(), reason="this processor has no AMX")
def test_the_same_holds_without_the_tiles_of_amx():
    """The products of processors that have AVX512-BF16 alone, on one that has both."""
    files = [str(Path(__file__).with_name(name)) for name in ("test_kernels.py", "test_learner_kernels.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *files]
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "GROUPWISE_KERNELS": "no-amx"})
    assert found.returncode == 0, found.stdout


@needs_kernels
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_what_the_kernels_write_to_has_their_dtype_whatever_the_default_is(default: torch.dtype) -> None:
    """They are given addresses: memory of another dtype would be overrun."""
    torch.set_default_dtype(default)
    try:
        z_NV = torch.zeros(3, 64, dtype=torch.float32)
        out = head.softmax(z_NV, torch.zeros(3, dtype=torch.long), 1.0, DTYPES[0], with_weights=False)
        _, drawn_R = head.draw(z_NV, 1.0, torch.full((3,), 0.5, dtype=torch.float64), DTYPES[0])
        found = [out.logprob_N, out.entropy_N, out.total_N, drawn_R]
    finally:
        torch.set_default_dtype(torch.float32)
    assert {each.dtype for each in found} == {torch.float32}
