"""Everything that the package uses of torch's private names and file layout: one function a symbol.

A docstring begins with the symbol. tests/policy/test_internals.py fails, naming this file, when torch drops one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def has_avx512_bf16() -> bool:
    """`torch.cpu._is_avx512_bf16_supported`: whether the CPU multiplies bfloat16 in AVX512."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def has_amx() -> bool:
    """`torch.cpu._is_amx_tile_supported`: whether the CPU has the tiles of AMX."""
    return bool(torch.cpu._is_amx_tile_supported())


def has_onednn_bf16() -> bool:
    """`torch.ops.mkldnn._is_mkldnn_bf16_supported`: whether oneDNN multiplies bfloat16 on this CPU."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def reorder_linear_weight(weight_OI: Tensor, num_rows: int) -> Tensor:
    """`torch.ops.mkldnn._reorder_linear_weight`: the weight in oneDNN's layout for inputs of about `num_rows` rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI, num_rows)  # type: ignore[no-any-return]


def onednn_linear(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """`torch.ops.mkldnn._linear_pointwise`: `x W' + b`; the weight may be reordered."""
    return torch.ops.mkldnn._linear_pointwise(x_TI, weight_OI, bias_O, "none", [], "")  # type: ignore[no-any-return]


def onednn_linear_add(x_TI: Tensor, other_TO: Tensor, weight_OI: Tensor) -> Tensor:
    """`torch.ops.mkldnn._linear_pointwise.binary`: `other + x W'`, rounded once; the weight is reordered."""
    return torch.ops.mkldnn._linear_pointwise.binary(x_TI, other_TO, weight_OI, None, "add")  # type: ignore[no-any-return]


def flash_attention(
    q_THD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    first_q: Tensor,
    first_k: Tensor,
    longest_q: int,
    longest_k: int,
    *,
    is_causal: bool,
    scale: float,
) -> list[Tensor]:
    """`torch.ops.aten._flash_attention_forward`: output [T, H, D], lse [H, T] and the state of its gradient, of
    consecutive runs of tokens whose first ones are given. On a GPU, in 16 bits.
    """
    runs = (first_q, first_k, longest_q, longest_k)
    found: list[Tensor] = list(
        torch.ops.aten._flash_attention_forward(q_THD, k_TKD, v_TKD, *runs, 0.0, is_causal, False, scale=scale)
    )
    expected = (q_THD.shape[1], len(q_THD))
    if found[1].shape != expected:
        raise RuntimeError(f"flash attention returns an lse of shape {tuple(found[1].shape)}, expected {expected}")
    return found


def flash_attention_backward(
    dout_THD: Tensor,
    q_THD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    output_THD: Tensor,
    lse_HT: Tensor,
    first_q: Tensor,
    first_k: Tensor,
    longest_q: int,
    longest_k: int,
    state: Sequence[Tensor],
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.ops.aten._flash_attention_backward`: gradients of q, k and v, the same bits every time."""
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    torch.use_deterministic_algorithms(True)
    try:
        runs = (first_q, first_k, longest_q, longest_k)
        found = torch.ops.aten._flash_attention_backward(
            dout_THD, q_THD, k_TKD, v_TKD, output_THD, lse_HT, *runs, 0.0, is_causal, *state, scale=scale
        )
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    return found[0], found[1], found[2]


def version_of(tensor: Tensor) -> int:
    """`torch.Tensor._version`: a count of the changes in place."""
    return tensor._version


@contextmanager
def with_submodules(module: nn.Module, submodules: Mapping[str, nn.Module]) -> Iterator[None]:
    """`torch.nn.Module._modules`: inside, the module has only these submodules."""
    every = module._modules
    module._modules = dict(submodules)
    try:
        yield
    finally:
        module._modules = every


def set_last_lr(scheduler: Any, rates: Sequence[float]) -> None:
    """`torch.optim.lr_scheduler.LRScheduler._last_lr`: what `get_last_lr` returns until the next step."""
    scheduler._last_lr = list(rates)


def openmp_library() -> Path:
    """`torch/lib/libgomp.so.1`: the OpenMP library that torch brings; the file need not exist."""
    return Path(torch.__file__).parent / "lib" / "libgomp.so.1"


def store_of_process_group() -> Any:
    """`torch.distributed.distributed_c10d._get_default_store`: the store of the process group of this process."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()
