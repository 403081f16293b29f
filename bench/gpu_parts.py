"""The parts of gpu.py: generators of what they have found so far, so that one that is cut off leaves something."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import common

common.measure_this_checkout()
sys.path += [str(common.ROOT / "tests"), str(common.ROOT / "tests" / "gpu")]

import torch  # noqa: E402

Found = dict[str, Any]
GROUP, RANK = 8, 16


@dataclass(frozen=True)
class Shape:
    """Sizes of a model of the family of Qwen2.5."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int = 49_152


BIG, HALF, SMALL, TINY = (
    Shape(1536, 28, 12, 2, 8960, 151_936),
    Shape(896, 24, 14, 2, 4864),
    Shape(576, 30, 9, 3, 1536),
    Shape(64, 2, 4, 2, 128, 512),
)


@dataclass(frozen=True)
class Work:
    """How much is measured, and where."""

    device: torch.device
    is_tiny: bool
    prompt_tokens: int = 256
    new_tokens: int = 256
    rows: tuple[int, ...] = (64, 8, 256)
    pack: int = 16_384
    """Tokens of a learner's pass."""
    product: int = 8192
    num_steps: int = 4

    @classmethod
    def of(cls, device: str, *, is_tiny: bool) -> Work:
        where = torch.device(device)
        return cls(where, True, 24, 12, (8,), 288, 64, 2) if is_tiny else cls(where, False)

    def shape(self, shape: Shape) -> Shape:
        return TINY if self.is_tiny else shape

    def seconds(self, work: Callable[[], Any], repeats: int = 3, warm_ups: int = 1) -> list[float]:
        """Wall-clock seconds of each repeat; `warm_ups` runs before are not among them."""
        times = []
        for _ in range(repeats + warm_ups):
            self.wait()
            start = perf_counter()
            work()
            self.wait()
            times.append(perf_counter() - start)
        return times[warm_ups:]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def random_model(shape: Shape, device: torch.device) -> Any:
    """A model of that shape in bfloat16 whose weights are drawn so that it is as sure of its tokens as a real one."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.feed_forward,
        vocab_size=shape.vocabulary,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.norm.weight.mul_(4 / (0.02 * shape.hidden**0.5))  # logits with a standard deviation of 4
    return model.eval()


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")


def random_network(shape: Shape, device: torch.device, *, is_full: bool = False) -> Any:
    """The model under a fresh adapter, or trained whole, with its fast path, as a run has it."""
    from groupwise.policy.load_model import hold_trained_weights_in_float32
    from groupwise.policy.trainable import add_adapter
    from groupwise.rollout.fastpath import build_policy_model

    model = random_model(shape, device)
    if not is_full:
        model = add_adapter(model.requires_grad_(False), lora(), 0)
    hold_trained_weights_in_float32(model)
    policy_model = build_policy_model(model, torch.bfloat16)
    assert policy_model.fused is not None, policy_model.why_plain
    return policy_model


def random_ids(count: int, length: int, vocabulary: int, seed: int = 0) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(vocabulary, (length,), generator=generator).tolist()) for _ in range(count)]


def requests(work: Work, rows: int, vocabulary: int) -> list[Any]:
    """Groups of 8 that all reach their full length: there is no end token."""
    from groupwise.types import Request, Sampling

    prompts = random_ids(rows // GROUP, work.prompt_tokens, vocabulary)
    return [Request(p, GROUP, Sampling(max_tokens=work.new_tokens), seed=(n,)) for n, p in enumerate(prompts)]


def copy_rate(work: Work) -> float:
    """Bytes a second, read and written, of a large copy."""
    source = torch.empty(2**20 if work.is_tiny else 2**31, dtype=torch.uint8, device=work.device)
    target = torch.empty_like(source)
    return 2 * len(source) / median(work.seconds(lambda: target.copy_(source), 10))


def product_rate(work: Work) -> float:
    """Multiplications and additions a second of a bfloat16 product of 8192^3."""
    size = work.product
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=work.device) for _ in range(2))
    return 2 * size**3 / median(work.seconds(lambda: a @ b, 10, 3))


def ceilings(work: Work) -> Iterator[Found]:
    yield {"copy_bytes_per_second": copy_rate(work), "product_flop_per_second": product_rate(work)}


def peak_gib(work: Work) -> float | None:
    """Most memory of the GPU that tensors of this process have held."""
    return torch.cuda.max_memory_allocated() / 2**30 if work.device.type == "cuda" else None


def checks(work: Work) -> Iterator[Found]:
    """Every check by name: "ok", or how it failed."""
    import checks as written

    if find_spec("pytest") is None:
        print("There is no pytest here: the checks run as plain functions.", flush=True)
    warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
    found: Found = {}
    chosen = list(written.CHECKS.items())
    for name, check in chosen[:: 5 if work.is_tiny else 1]:
        start = perf_counter()
        try:
            check(work.device)
            found[name] = "ok"
        except Exception as error:  # the others are worth knowing, too
            found[name] = f"{type(error).__name__}: {str(error)[:500]}"
        print(f"{found[name][:200]:8} {perf_counter() - start:6.1f} s  {name}", flush=True)
        failed = {key: value for key, value in found.items() if value != "ok"}
        yield {"num_ok": len(found) - len(failed), "num_checks": len(chosen), "failed": failed}


def mismatch(work: Work) -> Iterator[Found]:
    """Also where products may not add up their parts in bfloat16, as cuBLAS does for some shapes."""
    from groupwise.policy.packing import CompletionRows
    from groupwise.policy.policy_model import Scoring
    from groupwise.rollout.native import NativeEngine

    found: Found = {}
    kinds = (("135M", SMALL, True), ("135M, whole sums", SMALL, False), ("0.5B", HALF, True))
    for name, full_shape, may_round in kinds:
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = may_round
        shape = work.shape(full_shape)
        policy_model = random_network(shape, work.device)
        engine = NativeEngine(policy_model.fused)
        engine.load_weights(policy_model, version=0)
        asked = requests(work, 32 if not work.is_tiny else 8, shape.vocabulary)
        pairs = [(n, c) for n, group in engine.generate(asked) for c in group]
        rows = CompletionRows(
            [asked[n].prompt_ids for n, _ in pairs], [c.token_ids for _, c in pairs], [n for n, _ in pairs]
        )
        rollout_NT = torch.tensor([c.rollout_logprob for _, c in pairs], device=work.device)
        gap_NT = (policy_model.score(rows, Scoring(with_entropy=False)).logprob_NT - rollout_NT).abs()
        found[name] = {"mismatch": float(gap_NT.exp().mean()), "mean_logprob": float(rollout_NT.mean())}
        print(name, found[name], flush=True)
        yield found


def rollout(work: Work) -> Iterator[Found]:
    from groupwise.rollout.native import NativeEngine

    shape = work.shape(HALF)
    policy_model = random_network(shape, work.device)
    found: Found = {}
    for rows in work.rows:
        engine = NativeEngine(policy_model.fused, max_concurrent=rows)
        engine.load_weights(policy_model, version=0)
        asked = requests(work, rows, shape.vocabulary)
        first_s, *times = work.seconds(lambda: list(engine.generate(asked)), 3, 0)  # noqa: B023
        load_s = median(work.seconds(lambda: engine.load_weights(policy_model, version=1)))  # noqa: B023
        found[str(rows)] = {
            "tokens_per_second": rows * work.new_tokens / median(times),
            "ms_per_token_step": 1000 * median(times) / work.new_tokens,
            "first_seconds": first_s,
            "load_weights_seconds": load_s,
            "num_recorded": engine.decoder.recorder.num_recorded if engine.decoder else 0,
            "why_not_recorded": getattr(engine.decoder.recorder, "why_not", None) if engine.decoder else "not static",
        }
        print(rows, found[str(rows)], flush=True)
        yield found


def bandwidth(work: Work) -> Iterator[Found]:
    """Token steps of 8 rows of the 1.5B model beside the time in which its weights can be read once."""
    from groupwise.rollout.native import NativeEngine

    shape = work.shape(BIG)
    policy_model = random_network(shape, work.device)
    engine = NativeEngine(policy_model.fused, max_concurrent=8)
    engine.load_weights(policy_model, version=0)
    asked = requests(work, 8, shape.vocabulary)
    read = [p for name, p in policy_model.model.named_parameters() if "embed_tokens" not in name]
    floor_s = sum(p.numel() for p in read) * 2 / copy_rate(work)
    seconds = median(work.seconds(lambda: list(engine.generate(asked)))) / work.new_tokens
    yield {"ms_per_token_step": 1000 * seconds, "floor_ms": 1000 * floor_s, "share_of_floor": floor_s / seconds}


def steps(work: Work, shape: Shape, prompts: int, settings: Found, *, is_full_length: bool) -> Iterator[Found]:
    """Times of the steps of a run with prompts of `work.prompt_tokens` tokens."""
    from tiny import tiny_tokenizer
    from transformers import TrainerCallback

    from groupwise import GRPOConfig, GRPOTrainer

    texts = [f"{n} times {n} is more than {n}, " * work.prompt_tokens for n in range(4 * prompts)]
    rows = [{"prompt": text[: work.prompt_tokens]} for text in texts]
    lines: list[Found] = []

    class Keep(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Found | None = None, **_: Any) -> None:
            lines.append(dict(logs or {}))

    def reward(completions: list[str], completion_ids: list[Any], **_: Any) -> list[float]:
        return [float(ids[0] % 7) for ids in completion_ids]

    with TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, prompts_per_step=prompts, num_generations=GROUP, max_completion_length=work.new_tokens,
            max_steps=work.num_steps, beta=0.04, dtype="bfloat16", use_cpu=work.device.type == "cpu", report_to=[],
            save_strategy="no", logging_steps=1, **settings,
        )  # fmt: skip
        run = GRPOTrainer(
            random_model(shape, work.device), reward, config, rows, processing_class=tiny_tokenizer(),
            peft_config=lora(), callbacks=[Keep()],
        )  # fmt: skip
        if is_full_length:
            run.parts = replace(run.parts, policy=replace(run.parts.policy, stop_ids=()))
        start = perf_counter()
        run.train()
        total = perf_counter() - start
    keys = ("step_time", "time/rollout", "time/learn", "time/other", "sampling/mismatch", "completions/mean_length")
    yield {
        "train_seconds": total,
        "peak_gib": peak_gib(work),
        **{key: [line[key] for line in lines if key in line] for key in keys},
    }


def demo(work: Work) -> Iterator[Found]:

    shorter = work if work.is_tiny else replace(work, prompt_tokens=200, new_tokens=96, num_steps=6)
    settings = {"learning_rate": 5e-4, "max_prompt_length": 256}
    yield from steps(shorter, work.shape(SMALL), 4, settings, is_full_length=False)


def step(work: Work) -> Iterator[Found]:
    yield from steps(work, work.shape(HALF), 2 if work.is_tiny else 8, {"learning_rate": 1e-5}, is_full_length=True)


def learner(work: Work) -> Iterator[Found]:
    """Packs of the 1.5B model: completions of 1,024 tokens, 8 to a prompt, under an adapter and trained whole."""
    from groupwise.policy.packing import CompletionRows

    shape, ceiling = work.shape(BIG), product_rate(work)
    found: Found = {"product_flop_per_second": ceiling}
    new_tokens = work.pack // 2 // GROUP
    for name, is_full in (("lora", False), ("full", True)):
        policy_model = random_network(shape, work.device, is_full=is_full)
        group = [n for n in range(2) for _ in range(GROUP)]
        asked = random_ids(2, work.prompt_tokens, shape.vocabulary)
        said = random_ids(len(group), new_tokens - work.prompt_tokens // GROUP, shape.vocabulary)
        rows = CompletionRows([asked[n] for n in group], said, group)

        first_s, *times = work.seconds(partial(_learn, policy_model, rows), 4, 0)
        completion_tokens = sum(map(len, said))
        packed = completion_tokens + 2 * work.prompt_tokens
        layer = shape.hidden * (2 * shape.hidden + 3 * shape.feed_forward)
        layer += 2 * shape.hidden * shape.kv_heads * (shape.hidden // shape.heads)
        products = packed * shape.layers * layer + completion_tokens * shape.hidden * shape.vocabulary
        flop_rate = (6 if is_full else 4) * products / median(times)
        found[name] = {
            "packed_tokens": packed,
            "seconds": median(times),
            "first_seconds": first_s,
            "product_flop_per_second": flop_rate,
            "share_of_ceiling": flop_rate / ceiling,
            "peak_gib": peak_gib(work),
        }
        print(name, found[name], flush=True)
        yield found


def _learn(policy_model: Any, rows: Any) -> None:
    from groupwise.policy.policy_model import Scoring

    with policy_model.pass_over(rows, Scoring(with_entropy=False)) as scores:
        scores.logprob_NT.mean().backward()


def generate(work: Work) -> Iterator[Found]:
    model = random_model(work.shape(HALF), work.device)
    rows = work.rows[0]
    prompts = random_ids(rows // GROUP, work.prompt_tokens, model.config.vocab_size)
    ids = torch.tensor([prompt for prompt in prompts for _ in range(GROUP)], device=work.device)
    length = {"min_new_tokens": work.new_tokens, "max_new_tokens": work.new_tokens}

    @torch.inference_mode()
    def sample() -> None:
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, pad_token_id=0, **length)

    yield {"rows": rows, "tokens_per_second": rows * work.new_tokens / median(work.seconds(sample, 1))}


def trl(work: Work) -> Iterator[Found]:
    if any(find_spec(package) is None for package in ("trl", "datasets", "accelerate")):
        print("TRL is not installed here: nothing was measured beside it.", flush=True)
        yield {"skipped": "TRL is not installed"}
        return
    from datasets import Dataset
    from tiny import tiny_tokenizer
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    times = [perf_counter()]

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(perf_counter())

    size = 16 if work.is_tiny else 64
    rows = [{"prompt": (f"{n} one two three " * work.prompt_tokens)[: work.prompt_tokens]} for n in range(size)]
    with TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=size, num_generations=GROUP, bf16=work.device.type == "cuda",
            max_completion_length=work.new_tokens, generation_kwargs={"min_new_tokens": work.new_tokens}, beta=0.04,
            max_steps=2, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=work.device.type == "cpu",
            gradient_checkpointing=False,  # on by default; ours has none either
        )  # fmt: skip
        run = GRPOTrainer(
            random_model(work.shape(HALF), work.device), lambda completions, **_: [float(len(c)) for c in completions],
            config, Dataset.from_list(rows), processing_class=tiny_tokenizer(), peft_config=lora(), callbacks=[Clock()],
        )  # fmt: skip
        run.train()
    yield {"step_seconds": [after - before for before, after in pairwise(times)], "peak_gib": peak_gib(work)}


@dataclass(frozen=True)
class Part:
    """One part and its time limit."""

    measure: Callable[[Work], Iterator[Found]]
    limit_s: int


PARTS = {
    "ceilings": Part(ceilings, 60),
    "checks": Part(checks, 240),
    "mismatch": Part(mismatch, 120),
    "rollout": Part(rollout, 120),
    "bandwidth": Part(bandwidth, 90),
    "demo": Part(demo, 120),
    "step": Part(step, 120),
    "learner": Part(learner, 90),
    "trl": Part(trl, 120),
    "generate": Part(generate, 60),
}
"""By name, most important first."""
