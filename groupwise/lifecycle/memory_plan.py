"""The memory of each rank, from the configuration of the model alone: no weight is loaded.

What is held is counted exactly; activations and caches are estimates, which follow the token budget of a pass and the
completions that decode together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from groupwise.config import Settings
from groupwise.policy.adapter import has_adapter
from groupwise.policy.backend import backend_of
from groupwise.policy.compute_limits import ComputeLimits
from groupwise.policy.load_model import load_shapes
from groupwise.policy.trainable import add_adapter
from groupwise.policy.weight_sizes import WeightSizes
from groupwise.world import pick_dtype

PROMPT_TOKENS = 512
"""Taken for the length of a prompt where max_prompt_length is not set."""
MOMENTS = {"adamw": 8, "adamw_fused": 8, "adamw_8bit": 2, "sgd": 0, "adafactor": 0}
"""Bytes of the optimizer's state for a trained number; adafactor keeps sums over rows and columns."""
ESTIMATED = ("activations", "caches")
KEPT_BUFFERS = 3
"""Buffers that static decoding keeps, over the largest ones: rows and room grow and shrink by powers of two."""


@dataclass(frozen=True)
class Machine:
    """What a plan is for."""

    num_ranks: int
    device: torch.device
    dtype: torch.dtype

    @property
    def element_bytes(self) -> int:
        return self.dtype.itemsize


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that each of `num_ranks` ranks holds, by part."""

    num_ranks: int
    parts: Mapping[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(self.parts.values())

    @property
    def held_bytes(self) -> int:
        """Of what is there between two passes: counted, not estimated."""
        return sum(size for name, size in self.parts.items() if name not in ESTIMATED)

    def __str__(self) -> str:
        shown = [
            f"{name} {_gib(size)}{' (estimate)' if name in ESTIMATED else ''}"
            for name, size in self.parts.items()
            if size
        ]
        who = "the one rank" if self.num_ranks == 1 else f"each of {self.num_ranks} ranks"
        return f"{who}: {_gib(self.total_bytes)} GiB = {' + '.join(shown)}"


def _gib(size: int) -> str:
    gib = size / 2**30
    return f"{gib:.1f}" if gib >= 1 else f"{gib:.2g}"


def plan_memory(
    model: nn.Module, config: Settings, machine: Machine, limits: ComputeLimits | None = None
) -> MemoryPlan:
    """The plan for a model under its adapter; its parameters may lie on the device `meta`.

    `limits`: of tokens and completions at a time; those of the kind of device by default.
    """
    sizes, limits = WeightSizes.of(model), limits or ComputeLimits.of(machine.device)
    is_sharded = config.shard == "full" and machine.num_ranks > 1 and not has_adapter(model)
    share = machine.num_ranks if is_sharded else 1
    trained = -(-sizes.trained // share)
    parts = {
        "weights": _weight_bytes(sizes, machine, is_sharded=is_sharded),
        "packed weights": _packed_bytes(sizes, machine),
        "float32 shards": 4 * trained if is_sharded else 0,
        "gradients": 4 * trained,
        "optimizer": MOMENTS[config.optim] * trained,
        "whole layers in a pass": 12 * sizes.outside_layers + 16 * sizes.largest_layer if is_sharded else 0,
        "reference": _reference_bytes(sizes, config, machine, is_lora=has_adapter(model), is_sharded=is_sharded),
        "activations": _activation_bytes(sizes, config, machine, limits),
        "caches": _cache_bytes(sizes, config, machine, limits),
    }
    return MemoryPlan(machine.num_ranks, parts)


def _weight_bytes(sizes: WeightSizes, machine: Machine, *, is_sharded: bool) -> int:
    """The model's own weights, and the copies that the products read."""
    copies = machine.element_bytes * (sizes.biases + sizes.adapter_products) + _head_copy(sizes, machine)
    if is_sharded:  # the linear layers are views into the products' weights
        return sizes.stored_bytes - sizes.linear_bytes + machine.element_bytes * sizes.linear + copies
    is_same_dtype = sizes.linear_bytes == machine.element_bytes * sizes.linear
    return sizes.stored_bytes + machine.element_bytes * (sizes.sibling if is_same_dtype else sizes.linear) + copies


def _head_copy(sizes: WeightSizes, machine: Machine) -> int:
    is_same_dtype = sizes.head_bytes == machine.element_bytes * sizes.head
    return 0 if is_same_dtype else machine.element_bytes * sizes.head


def _packed_bytes(sizes: WeightSizes, machine: Machine) -> int:
    """The layout for products with few rows, which a CPU decodes by."""
    if not backend_of(machine.device).has_kernels:
        return 0
    return machine.element_bytes * sizes.linear + (4 * sizes.head if machine.element_bytes == 4 else 0)


def _reference_bytes(sizes: WeightSizes, config: Settings, machine: Machine, *, is_lora: bool, is_sharded: bool) -> int:
    """The frozen copy; under a fresh adapter the reference is the policy without it."""
    if is_lora or ("ref" not in config.objective.needs and config.kl_metric_steps is None):
        return 0
    return _weight_bytes(sizes, machine, is_sharded=is_sharded)


def _activation_bytes(sizes: WeightSizes, config: Settings, machine: Machine, limits: ComputeLimits) -> int:
    """Of one learner pass: what its backward pass reads, and the logits of a few rows."""
    tokens = config.micro_batch_tokens or limits.most_tokens
    products = 3 * sizes.width + 2 * sizes.query_width + 2 * sizes.kv_width + 3 * sizes.ffn_width
    layer = machine.element_bytes * products + 4 * 4 * sizes.width
    kept = 4 * sizes.width * sizes.num_layers + layer if config.gradient_checkpointing else layer * sizes.num_layers
    logits = 3 * 4 * backend_of(machine.device).head_rows * sizes.vocabulary
    return tokens * kept + logits


def _cache_bytes(sizes: WeightSizes, config: Settings, machine: Machine, limits: ComputeLimits) -> int:
    """Keys and values: each completion's own tokens, and the prompt of each group once."""
    copies = KEPT_BUFFERS if backend_of(machine.device).has_static_decoding else 1
    concurrent = config.max_concurrent_completions or limits.concurrent
    rows = min(concurrent, -(-config.completions_per_step // machine.num_ranks))
    prompts = -(-rows // config.num_generations)
    prompt = config.max_prompt_length or min(PROMPT_TOKENS, sizes.context or PROMPT_TOKENS)
    tokens = rows * config.max_completion_length + prompts * prompt
    return copies * 2 * machine.element_bytes * sizes.kv_width * sizes.num_layers * tokens


def model_without_weights(name: str, config: Settings, peft_config: Any) -> nn.Module:
    """The model of that name under its adapter, with shapes and no values.

    Raises:
        ModelError: it has no configuration that can be read, or its adapter does not fit.
    """
    model = load_shapes(
        name,
        full=peft_config is None,
        trust_remote_code=config.trust_remote_code,
        init_kwargs=config.model_init_kwargs,
    )
    with torch.device("meta"):
        return model if peft_config is None else add_adapter(model, peft_config, seed=0)


def planned_machine(config: Settings, num_ranks: int, device: torch.device) -> Machine:
    """The machine of a plan; `dtype: auto` is taken for bfloat16 where the run is not planned for this CPU."""
    if device.type != "cpu" and config.dtype == "auto":
        return Machine(num_ranks, device, torch.bfloat16)
    return Machine(num_ranks, device, pick_dtype(config.dtype, device))
