"""How each kind of device computes the same numbers: only `backend_of` looks at the kind.

Inside `backend_override(GPU)`, which tests use, a CPU takes every path of a GPU, with the same classes.

Shapes: B products at a time, M rows, N columns, I summed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class DeviceTraits:
    """The choices of one kind of device."""

    has_kernels: bool
    """Whether the CPU's own ways apply: compiled kernels, oneDNN's layouts of weights, few rows times an adapter in
    float32."""
    is_attention_float32: bool
    """Whether attention is computed in float32 whatever the compute dtype is."""
    is_residual_float32: bool
    """Whether what layers add up is kept in float32 whatever the weights' dtype is."""
    has_low_precision_head: bool
    """Whether float32 logits are summed from factors in the compute dtype, without a float32 copy of the weight."""
    has_flash: bool
    """Whether packed tokens attend by flash attention, where it computes what their layer does."""
    has_flex: bool
    """Whether packs attend by FlexAttention where flash attention does not."""
    has_static_decoding: bool
    """Whether decoding runs over static buffers, each step recorded once and played again."""
    has_fused_optimizer: bool
    has_joined_adapters: bool
    """Whether a frozen weight and its adapters are one matrix, and their products one product."""
    has_layer_kernels: bool
    """Whether decoder layers are a few large kernels, `kernels/gpu_ops.py`, where they can be rebuilt from them."""
    head_rows: int
    """Rows of logits that exist at a time."""
    pass_tokens: tuple[int, int]
    """Packed tokens of a learner's pass where the user sets none: least and most. On a CPU longer ones are no faster a
    token."""
    concurrent: int
    """Completions that decode together where neither the user nor the device's memory sets a number."""


CPU = DeviceTraits(
    has_kernels=True,
    is_attention_float32=True,
    is_residual_float32=False,
    has_low_precision_head=False,
    has_flash=False,
    has_flex=False,
    has_static_decoding=False,
    has_fused_optimizer=False,
    has_joined_adapters=False,
    has_layer_kernels=False,
    head_rows=128,  # 25 MB at a vocabulary of 49,152
    pass_tokens=(512, 1024),
    concurrent=64,
)
GPU = DeviceTraits(
    has_kernels=False,
    is_attention_float32=False,
    is_residual_float32=True,
    has_low_precision_head=True,
    has_flash=True,
    has_flex=True,
    has_static_decoding=True,
    has_fused_optimizer=True,
    has_joined_adapters=True,
    has_layer_kernels=True,
    head_rows=1024,
    pass_tokens=(16_384, 16_384),
    concurrent=64,
)
OTHER = replace(
    GPU,
    has_flash=False,
    has_flex=False,
    has_static_decoding=False,
    has_fused_optimizer=False,
    has_low_precision_head=False,
    has_joined_adapters=False,
    has_layer_kernels=False,
    pass_tokens=(4096, 4096),
    concurrent=64,
)
"""Any other accelerator that torch knows."""

_SUMS_INTO_FLOAT32 = ("cuda", "meta")
"""Devices whose products of lower factors can be asked for in float32."""
_forced: ContextVar[DeviceTraits | None] = ContextVar("traits of every device", default=None)


def backend_of(device: torch.device) -> DeviceTraits:
    """How this device computes."""
    return _forced.get() or {"cpu": CPU, "cuda": GPU}.get(device.type, OTHER)


@contextmanager
def backend_override(backend: DeviceTraits) -> Iterator[None]:
    """Inside, every device of this thread computes in this way. Use models that are made inside only inside."""
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)


def matmul_float32(a: Tensor, b: Tensor) -> Tensor:
    """`a b` in float32, MN or BMN: factors of low precision are summed in float32 and the sum is not rounded to theirs.

    Not differentiable.
    """
    if a.dtype != torch.float32 and a.device.type in _SUMS_INTO_FLOAT32:
        product = torch.mm if a.dim() == 2 else torch.bmm
        return product(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()
