"""What has to hold on a GPU, as plain functions of a device: they need no test runner, and a CPU takes the same paths.

Each raises AssertionError where it does not hold. `test_gpu.py` runs them; so does `bench/gpu.py`, with or without
pytest.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tiny import EOS, random_rows, tiny_model, tiny_tokenizer, with_lora
from torch import Tensor

from groupwise.policy.attention import AttentionLayer
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.packing import CompletionRows, Pack
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.rollout.native import NativeEngine
from groupwise.types import Completion, Request, Sampling

NAMES = ("llama", "qwen2", "qwen3", "mistral-window", "gemma3")
PROMPTS = [random_rows((n,), ((1,),), seed=n).prompt_ids[0] for n in (9, 17, 4)]
GROUP = 6
LOW = torch.bfloat16


def exact() -> None:
    """Products in float32, not in TF32, and FlexAttention compiled for as many models as there are here."""
    torch.backends.cuda.matmul.allow_tf32 = False
    if torch.cuda.is_available():
        import torch._dynamo.config as compiler

        compiler.recompile_limit = 256  # a run has one model; above the limit compiled code is left for eager code


def networks(name: str, dtype: torch.dtype, device: torch.device) -> tuple[PolicyModel, PolicyModel]:
    """One model on the device, its base in the compute dtype: with its fast path, and without."""
    exact()
    model = with_lora(tiny_model(name).to(dtype)).to(device)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return PolicyModel(model, dtype, FusedModel(model, dtype)), PolicyModel(copy.deepcopy(model), dtype, None)


def sampled(
    policy_model: PolicyModel, max_tokens: int | None = None, records: bool | None = None, **sampling: Any
) -> list[Completion]:
    """Completions of all prompts; fewer rows at a time than there are.

    On a GPU they outgrow the first buffers; tests/equal/test_static.py shows that on a CPU.
    """
    max_tokens = max_tokens or (150 if policy_model.device.type == "cuda" else 40)
    engine = NativeEngine(policy_model.fused, max_concurrent=6, records=records)
    engine.load_weights(policy_model, version=0)
    settings = Sampling(max_tokens=max_tokens, stop_ids=(EOS,), **sampling)
    found = dict(engine.generate([Request(p, GROUP, settings, seed=(n,)) for n, p in enumerate(PROMPTS)]))
    why_not = None if engine.decoder is None else getattr(engine.decoder.recorder, "why_not", None)
    assert why_not is None, f"recording failed: {why_not}"
    return [completion for number in sorted(found) for completion in found[number]]


def rows_of(completions: list[Completion]) -> CompletionRows:
    group = [number for number in range(len(PROMPTS)) for _ in range(GROUP)]
    kept = [c.kept_ids for c in completions]
    has_kept = any(k is not None for k in kept)
    return CompletionRows(
        [PROMPTS[n] for n in group], [c.token_ids for c in completions], group, kept if has_kept else None
    )


def scored(policy_model: PolicyModel, completions: list[Completion]) -> tuple[Tensor, list[Tensor]]:
    """Log-probs NT and the gradients of their sum."""
    device = policy_model.device
    with policy_model.pass_over(rows_of(completions), Scoring()) as scores:
        length_N1 = torch.tensor([[len(c.token_ids)] for c in completions], device=device)
        mask_NT = torch.arange(scores.logprob_NT.shape[1], device=device) < length_N1
        (scores.logprob_NT * mask_NT).sum().backward()
    grads = [p.grad for p in policy_model.model.parameters() if p.grad is not None]
    return scores.logprob_NT.detach() * mask_NT, grads


def rollout_logprobs(completions: list[Completion]) -> Tensor:
    return torch.tensor([x for c in completions for x in c.rollout_logprob])


def in_rows(logprob_NT: Tensor, completions: list[Completion]) -> Tensor:
    """The log-probs of the completions' tokens, one completion after another."""
    return torch.cat([logprob_NT[row, : len(c.token_ids)].cpu() for row, c in enumerate(completions)])


def mismatch(policy_model: PolicyModel, completions: list[Completion], **scoring: Any) -> float:
    """Mean exp |rollout log-prob - learner log-prob|."""
    scores = policy_model.score(rows_of(completions), Scoring(**scoring))
    return float((in_rows(scores.logprob_NT, completions) - rollout_logprobs(completions)).abs().exp().mean())


def check_recorded_steps_are_single_steps(name: str, device: torch.device) -> None:
    fast, _ = networks(name, torch.float32, device)
    recorded, stepped = (sampled(fast, records=records) for records in (True, False))
    assert [c.token_ids for c in recorded] == [c.token_ids for c in stepped]
    assert torch.allclose(rollout_logprobs(recorded), rollout_logprobs(stepped), atol=2e-4)


def check_rollout_and_learner_are_the_plain_model_in_float32(name: str, device: torch.device) -> None:
    fast, plain = networks(name, torch.float32, device)
    completions = sampled(fast)
    (logprob_NT, grads), (expected_NT, expected_grads) = (
        scored(policy_model, completions) for policy_model in (fast, plain)
    )
    assert torch.allclose(logprob_NT, expected_NT, atol=2e-4)
    assert torch.allclose(in_rows(logprob_NT, completions), rollout_logprobs(completions), atol=2e-4)
    assert len(grads) == len(expected_grads) > 0
    for mine, theirs in zip(grads, expected_grads, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-3)


def check_rollout_and_learner_differ_by_rounding_in_bfloat16(name: str, device: torch.device) -> None:
    """With gradient and without one."""
    fast, plain = networks(name, LOW, device)
    completions = sampled(fast)
    logprob_NT, grads = scored(fast, completions)
    gap = (in_rows(logprob_NT, completions) - rollout_logprobs(completions)).abs().exp().mean()
    assert float(gap) < 1.03, f"mean exp |difference| is {float(gap):.4f}"
    assert (without := mismatch(fast, completions)) < 1.03, f"without gradient it is {without:.4f}"
    _, expected = scored(plain, completions)
    assert all(g.dtype == torch.float32 and bool(g.isfinite().all()) for g in grads)
    mine, theirs = (torch.cat([g.flatten().float() for g in gs]) for gs in (grads, expected))
    assert float(torch.cosine_similarity(mine, theirs, dim=0)) > 0.98


def check_restricted_sampling_agrees_with_the_learner_in_bfloat16(device: torch.device) -> None:
    fast, _ = networks("llama", LOW, device)
    for settings in ({"top_k": 8}, {"top_p": 0.8}, {"temperature": 0.7}, {"repetition_penalty": 1.3}):
        completions = sampled(fast, max_tokens=30, **settings)
        given = {key: settings[key] for key in ("temperature", "repetition_penalty") if key in settings}
        assert mismatch(fast, completions, **given) < 1.03, settings


def check_flex_attention_is_padded_attention(window: int | None, dtype: torch.dtype, device: torch.device) -> None:
    exact()
    pack = Pack(random_rows((300, 60), ((90, 1, 30), (64, 12)), seed=1), device)
    layer, tokens = AttentionLayer(0, 0.125, window, None, None), len(pack.input_ids_P)
    assert pack._flex is not None
    has_grad = device.type == "cuda"  # on a CPU FlexAttention has none
    qkv = [torch.randn(h, tokens, 64, device=device, dtype=dtype, requires_grad=has_grad) for h in (8, 2, 2)]
    used = slice(0, tokens - pack.num_padding)
    found = pack._flex.attend(layer, *qkv)
    assert found is not None, "FlexAttention does not run here"
    pack._flex = None
    expected = pack.attend(layer, *qkv)
    atol = 1e-4 if dtype == torch.float32 else 2e-2
    assert found.dtype == expected.dtype == dtype
    assert torch.allclose(found[:, used], expected[:, used], atol=atol)
    if has_grad:
        slope = torch.randn_like(found)
        grads = [torch.autograd.grad(out[:, used], qkv, slope[:, used]) for out in (found, expected)]
        for mine, theirs in zip(*grads, strict=True):
            assert torch.allclose(mine[:, used], theirs[:, used], rtol=0.02, atol=10 * atol)


def check_a_run_trains_evaluates_and_saves(dtype: str, is_lora: bool, device: torch.device) -> None:
    """Three steps with a reference, an evaluation and a checkpoint, resumed for a fourth."""
    from peft import LoraConfig

    from groupwise import GRPOConfig, GRPOTrainer
    from groupwise.runs.reader import RunReader

    exact()
    rows = [{"prompt": f"say {word}"} for word in ("one", "two", "three", "four", "five", "six")]

    def short(completions: list[str], **_: Any) -> list[float]:
        return [-float(len(text)) for text in completions]

    def train(folder: str, steps: int, **settings: Any) -> Any:
        config = GRPOConfig(
            output_dir=folder, prompts_per_step=2, num_generations=4, max_completion_length=24, max_steps=steps,
            learning_rate=1e-2, dtype=dtype, use_cpu=device.type == "cpu", eval_steps=2, save_steps=2, report_to=[],
            beta=0.04, lr_scheduler_type="constant", gradient_checkpointing=True,
        )  # fmt: skip
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if is_lora else None
        base = tiny_model().to(LOW if dtype == "bfloat16" and is_lora else torch.float32).to(device)
        run = GRPOTrainer(
            base, short, config, rows, eval_dataset=rows[:3], processing_class=tiny_tokenizer(), peft_config=lora
        )
        run.train(**settings)
        return run

    with TemporaryDirectory() as folder:
        train(folder, 3)
        run = train(folder, 4, resume_from_checkpoint=True)
        steps = RunReader(Path(folder)).metrics()
        assert [line["step"] for line in steps][-1] == 4
        found = [line["sampling/mismatch"] for line in steps if line.get("sampling/mismatch") is not None]
        assert 0 < max(found, default=0.0) < (1.05 if dtype == "bfloat16" else 1.0005), found
        assert all(p.dtype == torch.float32 for p in run.model.parameters() if p.requires_grad)


CHECKS: dict[str, Callable[[torch.device], None]] = {
    **{
        f"{check.__name__.removeprefix('check_')}[{name}]": partial(check, name)
        for check in (
            check_recorded_steps_are_single_steps,
            check_rollout_and_learner_are_the_plain_model_in_float32,
            check_rollout_and_learner_differ_by_rounding_in_bfloat16,
        )
        for name in NAMES
    },
    "restricted_sampling_agrees_with_the_learner_in_bfloat16": (
        check_restricted_sampling_agrees_with_the_learner_in_bfloat16
    ),
    **{
        f"flex_attention_is_padded_attention[{window}, {dtype}]": partial(
            check_flex_attention_is_padded_attention, window, dtype
        )
        for window in (None, 40)
        for dtype in (torch.float32, LOW)
    },
    **{
        f"a_run_trains_evaluates_and_saves[{dtype}, {'lora' if is_lora else 'full'}]": partial(
            check_a_run_trains_evaluates_and_saves, dtype, is_lora
        )
        for dtype in ("float32", "bfloat16")
        for is_lora in (True, False)
    },
}
"""Name -> check, those that show most first."""
