"""The same code on an NVIDIA GPU samples and learns what the plain way gives. Skipped where there is none."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny import EOS, random_rows, tiny_model, with_lora

from groupwise.policy.attention import Layer
from groupwise.policy.compute import ComputeModel
from groupwise.policy.network import Network, Scoring
from groupwise.policy.packing import Pack, Rows
from groupwise.rollout.native import NativeEngine
from groupwise.rollout.native.step import RecordedStep
from groupwise.types import Completion, Request, Sampling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU that torch can use")

NAMES = ("llama", "qwen2", "mistral-window", "gemma3")
PROMPTS = [random_rows((n,), ((1,),), seed=n).prompt_ids[0] for n in (9, 17, 4)]


@pytest.fixture(autouse=True)
def _exact() -> Any:
    """Products in float32, not in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False


def networks(name: str, dtype: torch.dtype) -> tuple[Network, Network]:
    """One model on the GPU: with its fast path, and without."""
    model = with_lora(tiny_model(name)).to("cuda")
    return Network(model, dtype, ComputeModel(model, dtype)), Network(copy.deepcopy(model), dtype, None)


def sampled(network: Network, records: bool, max_tokens: int = 150) -> list[Completion]:
    engine = NativeEngine(network.compute, max_concurrent=6, records=records)
    engine.load_weights(network, version=0)
    sampling = Sampling(max_tokens=max_tokens, stop_ids=(EOS,))
    found = dict(engine.generate([Request(p, 6, sampling, seed=(n,)) for n, p in enumerate(PROMPTS)]))
    return [completion for number in sorted(found) for completion in found[number]]


def scored(network: Network, completions: list[Completion]) -> Any:
    group = [number for number in range(len(PROMPTS)) for _ in range(6)]
    rows = Rows([PROMPTS[number] for number in group], [c.token_ids for c in completions], group)
    with network.pass_over(rows, Scoring()) as scores:
        mask_NT = torch.arange(scores.logprob_NT.shape[1], device="cuda") < torch.tensor(
            [[len(c.token_ids)] for c in completions], device="cuda"
        )
        (scores.logprob_NT * mask_NT).sum().backward()
    return scores.logprob_NT.detach() * mask_NT, [p.grad for p in network.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_step_samples_what_a_step_of_single_operations_samples(name: str) -> None:
    fast, _ = networks(name, torch.float32)
    recorded, stepped = (sampled(fast, records) for records in (True, False))
    assert RecordedStep.can_record, "recording failed on the way"
    assert [c.token_ids for c in recorded] == [c.token_ids for c in stepped]
    for mine, theirs in zip(recorded, stepped, strict=True):
        assert mine.rollout_logprob == pytest.approx(theirs.rollout_logprob, abs=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_rollout_and_learner_agree_with_the_plain_model_in_float32(name: str) -> None:
    fast, plain = networks(name, torch.float32)
    completions = sampled(fast, records=True)
    (logprob_NT, grads), (expected_NT, expected_grads) = (scored(network, completions) for network in (fast, plain))
    assert torch.allclose(logprob_NT, expected_NT, atol=2e-4)
    for row, completion in enumerate(completions):
        rollout = torch.tensor(completion.rollout_logprob, device="cuda")
        assert torch.allclose(logprob_NT[row, : len(rollout)], rollout, atol=2e-4)
    assert len(grads) == len(expected_grads) > 0
    for mine, theirs in zip(grads, expected_grads, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-3)


def test_rollout_and_learner_disagree_by_rounding_alone_in_bfloat16() -> None:
    fast, _ = networks("llama", torch.bfloat16)
    completions = sampled(fast, records=True)
    logprob_NT, _ = scored(fast, completions)
    rollout = torch.tensor([x for c in completions for x in c.rollout_logprob], device="cuda")
    learner = torch.cat([logprob_NT[row, : len(c.token_ids)] for row, c in enumerate(completions)])
    assert float((rollout - learner).abs().exp().mean()) < 1.03


@pytest.mark.parametrize("window", [None, 40])
def test_flex_attention_gives_what_padded_attention_gives(window: int | None) -> None:
    pack = Pack(random_rows((300, 60), ((90, 1, 30), (64, 12)), seed=1), torch.device("cuda"))
    layer, tokens = Layer(0, 0.125, window, None, None), len(pack.input_ids_P)
    assert pack._flex is not None
    qkv = [torch.randn(heads, tokens, 64, device="cuda", requires_grad=True) for heads in (8, 2, 2)]
    used = slice(0, tokens - pack.num_padding)
    found = pack._flex.attend(layer, *qkv)
    assert found is not None, "FlexAttention does not run here"
    pack._flex = None
    expected = pack.attend(layer, *qkv)
    assert torch.allclose(found[:, used], expected[:, used], atol=1e-4)
    slope = torch.randn_like(found)
    grads = [torch.autograd.grad(out[:, used], qkv, slope[:, used]) for out in (found, expected)]
    for mine, theirs in zip(*grads, strict=True):
        assert torch.allclose(mine[:, used], theirs[:, used], atol=1e-3)
