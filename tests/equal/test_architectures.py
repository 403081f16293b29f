"""The fast path equals the model itself, architecture by architecture: log-probs, entropy, gradients, decoding.

The slow twin is `PolicyModel(model, dtype, None)`: padded rows through the model's own forward pass and plain autograd.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import EOS, WINDOW, random_rows, tiny_model, with_lora
from torch import Tensor

from groupwise.policy.fused_model import FusedModel
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.rollout.fastpath import why_not_fast
from groupwise.rollout.native import NativeEngine
from groupwise.types import Request, Sampling

REQUIRED = [
    "llama", "llama-bias", "llama-tied", "qwen2", "qwen3", "qwen3-moe", "phi3", "olmo2", "gemma3", "mistral",
    "mistral-window",
]  # fmt: skip
ALSO_EXACT = ["gpt-oss", "gemma2", "granite"]
FAST = REQUIRED + ALSO_EXACT
SCORING = Scoring(temperature=0.7, entropy_gradient=True)
ROWS = random_rows()


def lora_model(name: str) -> Any:
    """LoRA on every linear layer; with experts, which peft adapts in its own way, on those of attention."""
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    return with_lora(tiny_model(name), target_modules=attention if name == "qwen3-moe" else "all-linear")


def networks(model: Any, **settings: Any) -> tuple[PolicyModel, PolicyModel]:
    """The slow and the fast one, on the same tensors."""
    fused = FusedModel(model, torch.float32, **settings)
    fast = PolicyModel(model, torch.float32, fused)
    fast.refresh()
    return PolicyModel(model, torch.float32, None), fast


def gradients(policy_model: PolicyModel, rows: CompletionRows = ROWS) -> dict[str, Tensor]:
    """Gradient of an arbitrary function of every log-prob and every entropy."""
    policy_model.model.zero_grad()
    generator = torch.Generator().manual_seed(1)
    with policy_model.pass_over(rows, SCORING) as scores:
        weight_NT, entropy_weight_NT = torch.randn(2, *scores.logprob_NT.shape, generator=generator)
        loss = (weight_NT * scores.logprob_NT).sum() + (entropy_weight_NT * scores.entropy_NT).sum()
        loss.backward()
    return {n: p.grad.clone() for n, p in policy_model.model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    """Within the tolerance of design section 8: relative to the largest gradient, where that is above 1."""
    assert found.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        gap = float((found[name] - gradient).abs().max())
        assert gap <= tolerance * max(1.0, largest), (name, gap, largest)


def test_the_window_is_shorter_than_what_is_tested():
    assert min(len(p) for p in ROWS.prompt_ids) > WINDOW


@pytest.mark.parametrize("name", FAST)
def test_the_fast_path_is_earned(name):
    assert why_not_fast(tiny_model(name)) is None
    assert why_not_fast(lora_model(name)) is None


@pytest.mark.parametrize("name", FAST)
def test_packed_scores_equal_the_padded_ones(name):
    slow, fast = networks(tiny_model(name))
    expected, found = slow.score(ROWS, SCORING), fast.score(ROWS, SCORING)
    assert expected.logprob_NT.min() < -5.5  # uniform would be -4.2
    torch.testing.assert_close(found.logprob_NT, expected.logprob_NT, rtol=0, atol=2e-5)
    torch.testing.assert_close(found.entropy_NT, expected.entropy_NT, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", FAST)
def test_gradients_of_full_fine_tuning_equal_plain_autograd(name):
    slow, fast = networks(tiny_model(name))
    expected = gradients(slow)
    assert expected.keys() == dict(slow.model.named_parameters()).keys()
    assert_same_gradients(gradients(fast), expected)


@pytest.mark.parametrize("name", FAST)
def test_gradients_of_lora_equal_plain_autograd(name):
    slow, fast = networks(lora_model(name))
    expected = gradients(slow)
    assert expected
    assert all("lora_" in n for n in expected)
    assert_same_gradients(gradients(fast), expected)


@pytest.mark.parametrize("name", FAST)
def test_the_engine_reports_the_log_probs_of_the_learner(name):
    _, fast = networks(lora_model(name))
    sampling = Sampling(temperature=0.8, max_tokens=12, stop_ids=(EOS,))
    requests = [Request(p, n, sampling, seed=(i,)) for i, (p, n) in enumerate(prompts_with_counts())]
    rows, rollout = [], []
    for number, completions in NativeEngine(fast.fused).generate(requests):
        for completion in completions:
            rows.append((requests[number].prompt_ids, completion.token_ids, number))
            rollout.append(torch.tensor(completion.rollout_logprob))
    scores = fast.score(CompletionRows(*map(list, zip(*rows, strict=True))), Scoring(temperature=0.8))
    expected_NT = torch.nn.utils.rnn.pad_sequence(rollout, batch_first=True)
    torch.testing.assert_close(scores.logprob_NT, expected_NT, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", FAST)
def test_greedy_tokens_equal_those_of_generate(name):
    model = tiny_model(name)
    _, fast = networks(model)
    sampling = Sampling(temperature=0, max_tokens=12, stop_ids=(EOS,))
    requests = [Request(prompt, 1, sampling) for prompt, _ in prompts_with_counts()]
    for number, (completion,) in NativeEngine(fast.fused).generate(requests):
        prompt = torch.tensor([requests[number].prompt_ids])
        generated = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=12, eos_token_id=EOS
        )
        assert completion.token_ids == tuple(generated[0, prompt.shape[1] :].tolist())


def prompts_with_counts() -> list[tuple[tuple[int, ...], int]]:
    """Each prompt of the test rows with the number of its completions."""
    return [(ROWS.prompt_ids[run[0]], len(run)) for run in ROWS.runs()]
