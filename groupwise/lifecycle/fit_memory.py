"""Fits a run into the memory of its GPU: limits that are chosen from it, and runs that are too large for it.

A CPU's memory is shared with other programs and grows with swap: its limits are fixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from groupwise.config import Settings
from groupwise.errors import ConfigError, ModelError
from groupwise.lifecycle.memory_plan import Machine, model_without_weights, plan_memory, planned_machine
from groupwise.policy.compute_limits import ComputeLimits
from groupwise.policy.policy_model import PolicyModel
from groupwise.ranks import this_world

SHARE = 0.9
"""Of the memory that a run plans for: torch keeps some between its blocks, and CUDA itself takes some."""
SHARE_OF_CACHES = 0.25
"""Of what the weights leave, keys and values may take so much."""
LEAST_TOKENS, LEAST_CONCURRENT, MOST_CONCURRENT = 1024, 8, 512


def device_memory(device: torch.device) -> int | None:
    """Bytes of memory that a GPU has in all; None for a device whose memory is not planned for."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def fitting_limits(model: nn.Module, config: Settings, machine: Machine, memory: int | None) -> ComputeLimits:
    """The largest limits with which the plan of a run stays within its share of `memory`; the least ones if none does.

    They follow from the memory that the device has, not from what is free: a resumed run has the same ones.
    """
    limits = ComputeLimits.of(machine.device)
    if memory is None:
        return limits
    for concurrent in _halvings(_enough(config), LEAST_CONCURRENT):
        limits = ComputeLimits(limits.least_tokens, limits.most_tokens, concurrent)
        plan = plan_memory(model, config, machine, limits)
        if plan.parts["caches"] <= SHARE_OF_CACHES * (SHARE * memory - plan.held_bytes):
            break
    for tokens in _halvings(limits.most_tokens, LEAST_TOKENS):
        limits = ComputeLimits(min(limits.least_tokens, tokens), tokens, limits.concurrent)
        if plan_memory(model, config, machine, limits).total_bytes <= SHARE * memory:
            break
    return limits


def _enough(config: Settings) -> int:
    """Room for all completions of a step at once, and for small evaluations."""
    return min(max(1 << (config.completions_per_step - 1).bit_length(), 64), MOST_CONCURRENT)


def _halvings(first: int, least: int) -> Iterator[int]:
    while first >= least:
        yield first
        first //= 2


def require_memory_for(name: str, config: Settings, peft_config: Any, device: torch.device) -> None:
    """Raise `ConfigError` where training that model does not fit into the device, before a weight of it is loaded."""
    memory = device_memory(device)
    if memory is None:
        return
    try:
        model = model_without_weights(name, config, peft_config)
    except ModelError:  # loading it finds the same, with more to tell
        return
    _require(model, config, planned_machine(config, this_world().size, device), memory)


def fit_to_memory(policy_model: PolicyModel, config: Settings) -> None:
    """Set the limits of a loaded policy; `ConfigError` where its training does not fit into its device."""
    memory = device_memory(policy_model.device)
    machine = Machine(this_world().size, policy_model.device, policy_model.dtype)
    if memory is not None:
        policy_model.limits = _require(policy_model.model, config, machine, memory)


def _require(model: nn.Module, config: Settings, machine: Machine, memory: int) -> ComputeLimits:
    """The limits of a run that fits; `ConfigError` for one that does not."""
    limits = fitting_limits(model, config, machine, memory)
    plan = plan_memory(model, config, machine, limits)
    if plan.total_bytes <= memory:
        return limits
    raise ConfigError(
        f"The run does not fit into this GPU: it has {memory / 2**30:.1f} GiB, and {plan}. What would fit: "
        f"{_remedy(model, config, machine, memory)}."
    )


def _remedy(model: nn.Module, config: Settings, machine: Machine, memory: int) -> str:
    """Changes of the recipe, from the one that costs least on, until the plan fits; with its number."""
    changes: dict[str, object] = {}
    for key, value in (("micro_batch_tokens", None), ("gradient_checkpointing", True), ("optim", "adamw_8bit")):
        if getattr(config, key) == value:
            continue
        changes[key] = value
        tried = config.model_copy(update=changes)
        limits = fitting_limits(model, tried, machine, memory)
        size = plan_memory(model, tried, machine, limits).total_bytes
        if size <= memory:
            shown = {key: limits.most_tokens if value is None else value for key, value in changes.items()}
            words = ", ".join(f"{key}: {str(value).lower()}" for key, value in shown.items())
            return f"{words} ({size / 2**30:.1f} GiB)"
    return "a smaller model, or an adapter (lora) on this one"
