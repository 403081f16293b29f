"""Rollout and learner on a GPU: tokens/s beside what memory and matrix units allow, and beside transformers.

Usage: python bench/gpu.py                      (one NVIDIA GPU; `make gpu` runs the tests of a GPU first)

Models of real shapes with random weights, because speed does not depend on them: 0.5B and 1.5B parameters. For each,
bfloat16, LoRA of rank 16 on all linear layers:

rollout   tokens/s at 8, 64 and 256 concurrent completions in groups of 8; beside it the time in which the card reads
          every weight once (`bandwidth`, measured by copying), the products of a step (`products`), and
          `model.generate` of transformers on the same prompts, which is how TRL samples without vLLM
learner   a packed pass forward and backward, beside its products
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import common

common.measure_this_checkout()

import engine  # noqa: E402  # it imports the checkout, too
import torch  # noqa: E402

BYTES_COPIED = 2**30


@dataclass(frozen=True)
class Shape:
    """Sizes of a model of the family of Qwen2.5."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int = 151_936


SHAPES = {"0.5B": Shape(896, 24, 14, 2, 4864), "1.5B": Shape(1536, 28, 12, 2, 8960)}
TINY = Shape(64, 2, 4, 2, 128, 512)
SIZES = replace(engine.Sizes(), rows=(8, 64, 256), prompt_tokens=256, new_tokens=256)


def random_policy(shape: Shape, device: torch.device) -> Any:
    """A model of that shape with a LoRA adapter and its fast path, as a run has it; no tokenizer."""
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, Qwen2Config

    from groupwise.policy.load_model import hold_trained_weights_in_float32
    from groupwise.policy.trainable import add_adapter
    from groupwise.rollout.fastpath import build_network
    from groupwise.world import pick_dtype

    config = Qwen2Config(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.feed_forward,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    dtype = pick_dtype("auto", device)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).to(device)
    lora = LoraConfig(task_type="CAUSAL_LM", r=engine.RANK, lora_alpha=2 * engine.RANK, target_modules="all-linear")
    model = add_adapter(model.requires_grad_(False), lora, 0)
    hold_trained_weights_in_float32(model)
    network = build_network(model, dtype, gradient_checkpointing=False, engine="auto", notify=print)
    return SimpleNamespace(model=model, network=network)


def bandwidth(device: torch.device) -> float:
    """Bytes a second that the device reads, from copying: half of what a copy moves."""
    source = torch.empty(BYTES_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * BYTES_COPIED / median(engine.seconds(lambda: target.copy_(source), 10, device))


def measure_generate(policy: Any, rows: int, sizes: Any) -> float:
    """Tokens/s of `model.generate`, every completion of full length."""
    model, device = policy.model, policy.network.device
    vocabulary = model.config.vocab_size
    prompts = engine.random_ids(rows // engine.GROUP, sizes.prompt_tokens, vocabulary)
    ids = torch.tensor([prompt for prompt in prompts for _ in range(engine.GROUP)], device=device)

    @torch.inference_mode()
    def generate() -> None:
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            min_new_tokens=sizes.new_tokens,
            max_new_tokens=sizes.new_tokens,
            pad_token_id=0,
        )

    return rows * sizes.new_tokens / median(engine.seconds(generate, 2, device))


def measure(shape: Shape, sizes: Any, device: torch.device) -> dict[str, Any]:
    """One model, rollouts first."""
    policy = random_policy(shape, device)
    assert policy.network.compute is not None, policy.network.why_plain
    products = engine.Products(policy.model.get_base_model(), policy.network.dtype)
    weight_bytes = sum(w.numel() * w.element_size() for w in [*products.layers, products.head])
    reads_per_second = bandwidth(device)
    found: dict[str, Any] = {"weight_bytes": weight_bytes, "bytes_per_second": reads_per_second, "rollout": {}}
    for rows in sizes.rows:
        rollout = found["rollout"][str(rows)] = engine.measure_rollout(policy, products, rows, sizes)
        tokens_per_second = rollout["tokens_per_second"]
        rollout["share_of_bandwidth"] = tokens_per_second / rows * weight_bytes / reads_per_second
        rollout["generate_tokens_per_second"] = measure_generate(policy, rows, sizes)
        rollout["against_generate"] = tokens_per_second / rollout["generate_tokens_per_second"]
        tell(f"rollout {rows}", rollout)
    found["learner"] = engine.measure_learner(policy, products, sizes)
    tell("learner", found["learner"])
    if device.type == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


def tell(name: str, found: dict[str, Any]) -> None:
    """One line a figure."""
    line = f"{name:12}{found['tokens_per_second']:10.0f} tokens/s, {found['share_of_floor']:.0%} of its products"
    if "against_generate" in found:
        line += f", {found['share_of_bandwidth']:.0%} of the bandwidth, {found['against_generate']:.1f} x generate"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=common.RESULTS / "gpu.json")
    parser.add_argument("--quick", action="store_true", help="smoke test: a tiny model, on whatever device there is")
    arguments = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not arguments.quick:
        print("SKIPPED: there is no NVIDIA GPU here that torch can use. Nothing was measured.")
        return
    device = torch.device("cuda" if has_gpu else "cpu")
    shapes = {"tiny": TINY} if arguments.quick else SHAPES
    sizes = engine.QUICK if arguments.quick else SIZES
    result = {**common.header(), "is_quick": arguments.quick, "sizes": vars(sizes), "models": {}}
    result["gpu"] = torch.cuda.get_device_name(device) if has_gpu else None
    for name, shape in shapes.items():
        print(name)
        result["models"][name] = {"shape": vars(shape), **measure(shape, sizes, device)}
        common.save(arguments.output, result)


if __name__ == "__main__":
    main()
