"""Operations of a GPU's decoder layers: Triton kernels where triton runs, the same written out in torch elsewhere.

The forms in torch are what tests on a CPU take, and what a GPU without triton takes.

Shapes: T tokens, I hidden width, F feed-forward width, H query heads, K key/value heads, D head width; R rows of a
decode step. "Factors" are numbers in the dtype that products multiply.
"""

from __future__ import annotations

import functools
import os
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from groupwise.kernels.head import Softmax

_INTERPRETED = "TRITON_INTERPRET"
_VOCABULARY_BLOCK = 4096
"""Logits of a row that a program reads at a time."""


def has_triton(device: torch.device) -> bool:
    """Whether the kernels run on this device; warns once where they should and do not."""
    if device.type == "cpu":
        return os.environ.get(_INTERPRETED) == "1" and find_spec("triton") is not None
    return device.type == "cuda" and _runs_on(device)


@functools.cache
def _runs_on(device: torch.device) -> bool:
    x_TI = torch.ones(2, 64, device=device)
    try:
        y_TI = torch.empty_like(x_TI)
        _launch_norm(x_TI, None, torch.ones(64, device=device), 0.0, y_TI, None)
        return bool((y_TI - 1).abs().max() < 1e-3)
    except Exception as error:  # no triton, no compiler for its launcher, a card that it does not know
        reason = str(error).strip().split("\n")[0]
        warnings.warn(f"Decoder layers run without Triton kernels ({reason}); they are slower.", stacklevel=2)
        return False


def _kernels() -> Any:
    from groupwise.kernels import triton_kernels

    return triton_kernels


def power_of_two(number: int, least: int = 1) -> int:
    """The smallest power of two that is no smaller than either."""
    return max(1 << (number - 1).bit_length(), least)


def block_of(width: int) -> int:
    """Numbers that a program holds for this many: a power of two, large enough for a product."""
    return power_of_two(width, 16)


def _warps(block: int) -> int:
    return min(max(block // 256, 1), 16)


def _launch_norm(
    x_TI: Tensor, delta_TI: Tensor | None, weight_I: Tensor, eps: float, out_TI: Tensor, inverse_T: Tensor | None
) -> Tensor:
    """Writes the normed sum into `out_TI`; returns the sum, which is x itself without a delta."""
    width = x_TI.shape[1]
    sum_TI = x_TI if delta_TI is None else torch.empty_like(x_TI)
    block = block_of(width)
    _kernels().add_rms_norm[(len(x_TI),)](
        x_TI, delta_TI, weight_I, sum_TI, out_TI, inverse_T, eps, width,
        0 if delta_TI is None else delta_TI.stride(0), out_TI.stride(0),
        HAS_DELTA=delta_TI is not None, KEEPS_INVERSE=inverse_T is not None, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    return sum_TI


def _rows_of(x: Tensor) -> Tensor:
    """Memory in which a row's numbers lie side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


class _AddRMSNorm(torch.autograd.Function):
    """See `add_rms_norm`."""

    @staticmethod
    def forward(
        ctx: Any, x_TI: Tensor, delta_TI: Tensor | None, weight_I: Tensor, eps: float, dtype: torch.dtype, columns: int
    ) -> Tensor | tuple[Tensor, Tensor]:
        inverse_T = x_TI.new_empty(len(x_TI), dtype=torch.float32)
        y_TJ = x_TI.new_empty(len(x_TI), columns, dtype=dtype)
        sum_TI = _launch_norm(x_TI, delta_TI, weight_I, eps, y_TJ, inverse_T)
        ctx.save_for_backward(sum_TI, weight_I, inverse_T)
        ctx.delta_dtype = None if delta_TI is None else delta_TI.dtype
        return y_TJ if delta_TI is None else (sum_TI, y_TJ)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dsum_TI, dy_TJ = (gradients[0] if len(gradients) == 2 else None), gradients[-1]
        sum_TI, weight_I, inverse_T = ctx.saved_tensors
        dx_TI = torch.empty_like(sum_TI)
        ddelta_TI = None if ctx.delta_dtype is None else torch.empty_like(sum_TI, dtype=ctx.delta_dtype)
        dy_TJ, width, block = _rows_of(dy_TJ), sum_TI.shape[1], block_of(sum_TI.shape[1])
        _kernels().rms_norm_backward[(len(sum_TI),)](
            sum_TI, weight_I, inverse_T, dy_TJ, None if dsum_TI is None else dsum_TI.contiguous(), dx_TI, ddelta_TI,
            width, dy_TJ.stride(0),
            HAS_DSUM=dsum_TI is not None, HAS_DDELTA=ddelta_TI is not None, BLOCK=block, num_warps=_warps(block),
        )  # fmt: skip
        dweight_I = None
        if ctx.needs_input_grad[2]:
            dweight_I = torch.einsum("ti,ti,t->i", dy_TJ[:, :width].float(), sum_TI, inverse_T).to(weight_I.dtype)
        return dx_TI, ddelta_TI, dweight_I, None, None, None


def rms_norm(x_TI: Tensor, weight_I: Tensor, eps: float, dtype: torch.dtype, columns: int) -> Tensor:
    """RMS norm of x in factors [T, J], J = `columns`, of which the first I are written."""
    if not has_triton(x_TI.device):
        return _normed(x_TI, weight_I, eps, dtype, columns)
    if torch.is_grad_enabled():
        return _AddRMSNorm.apply(x_TI, None, weight_I, eps, dtype, columns)  # type: ignore[no-any-return, no-untyped-call]
    y_TJ = x_TI.new_empty(len(x_TI), columns, dtype=dtype)
    _launch_norm(x_TI, None, weight_I, eps, y_TJ, None)
    return y_TJ


def add_rms_norm(
    x_TI: Tensor, delta_TI: Tensor, weight_I: Tensor, eps: float, dtype: torch.dtype, columns: int
) -> tuple[Tensor, Tensor]:
    """x + delta in float32, and its `rms_norm`."""
    if not has_triton(x_TI.device):
        sum_TI = x_TI + delta_TI.float()
        return sum_TI, _normed(sum_TI, weight_I, eps, dtype, columns)
    delta_TI = _rows_of(delta_TI)
    if torch.is_grad_enabled():
        return _AddRMSNorm.apply(x_TI, delta_TI, weight_I, eps, dtype, columns)  # type: ignore[no-any-return, no-untyped-call]
    y_TJ = x_TI.new_empty(len(x_TI), columns, dtype=dtype)
    return _launch_norm(x_TI, delta_TI, weight_I, eps, y_TJ, None), y_TJ


def _normed(x_TI: Tensor, weight_I: Tensor, eps: float, dtype: torch.dtype, columns: int) -> Tensor:
    x_TI = x_TI.float()
    inverse_T1 = (x_TI.square().mean(-1, keepdim=True) + eps).rsqrt()
    return _widened((x_TI * inverse_T1 * weight_I.float()).to(dtype), columns)


def _widened(x_TI: Tensor, columns: int) -> Tensor:
    """A copy with room behind each row."""
    return F.pad(x_TI, (0, columns - x_TI.shape[1])) if columns > x_TI.shape[1] else x_TI


class _SiluMul(torch.autograd.Function):
    """See `silu_mul`."""

    @staticmethod
    def forward(ctx: Any, gate_up_TG: Tensor, columns: int) -> Tensor:
        ctx.save_for_backward(gate_up_TG)
        return _launch_silu(gate_up_TG, columns)

    @staticmethod
    def backward(ctx: Any, dout_TJ: Tensor) -> tuple[Tensor, None]:
        (gate_up_TG,) = ctx.saved_tensors
        dgate_up_TG, dout_TJ = torch.empty_like(gate_up_TG), _rows_of(dout_TJ)
        width = gate_up_TG.shape[1] // 2
        _kernels().silu_mul_backward[(len(gate_up_TG), -(-width // 1024))](
            gate_up_TG, dout_TJ, dgate_up_TG, width, dout_TJ.stride(0), BLOCK=1024
        )
        return dgate_up_TG, None


def _launch_silu(gate_up_TG: Tensor, columns: int) -> Tensor:
    width = gate_up_TG.shape[1] // 2
    out_TJ = gate_up_TG.new_empty(len(gate_up_TG), columns)
    grid = (len(gate_up_TG), -(-width // 1024))
    _kernels().silu_mul[grid](gate_up_TG, out_TJ, width, columns, BLOCK=1024)
    return out_TJ


def silu_mul(gate_up_TG: Tensor, columns: int) -> Tensor:
    """`silu(gate) * up` of [T, 2 F] factors, [T, J], J = `columns`, of which the first F are written."""
    if has_triton(gate_up_TG.device):
        gate_up_TG = gate_up_TG.contiguous()
        if torch.is_grad_enabled():
            return _SiluMul.apply(gate_up_TG, columns)  # type: ignore[no-any-return, no-untyped-call]
        return _launch_silu(gate_up_TG, columns)
    gate_TF, up_TF = gate_up_TG.float().chunk(2, dim=-1)
    return _widened((F.silu(gate_TF) * up_TF).to(gate_up_TG.dtype), columns)


class _MergedHeads(torch.autograd.Function):
    """See `merged_heads`."""

    @staticmethod
    def forward(ctx: Any, x_HTD: Tensor, dtype: torch.dtype, columns: int) -> Tensor:
        heads, tokens, width = ctx.shape = x_HTD.shape
        ctx.dtype = x_HTD.dtype
        y_TJ = x_HTD.new_empty(tokens, columns, dtype=dtype)
        y_TJ[:, : heads * width].view(tokens, heads, width).copy_(x_HTD.transpose(0, 1))
        return y_TJ

    @staticmethod
    def backward(ctx: Any, dy_TJ: Tensor) -> tuple[Tensor, None, None]:
        heads, tokens, width = ctx.shape
        dx_THD = dy_TJ[:, : heads * width].view(tokens, heads, width)
        return dx_THD.transpose(0, 1).to(ctx.dtype), None, None


def merged_heads(x_HTD: Tensor, dtype: torch.dtype, columns: int) -> Tensor:
    """[H, T, D] as factors [T, J], J = `columns`, of which the first H D are written."""
    return _MergedHeads.apply(x_HTD, dtype, columns)  # type: ignore[no-any-return, no-untyped-call]


class _RotatedHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, heads: int, kv_heads: int
    ) -> tuple[Tensor, ...]:
        tokens = len(qkv_TO)
        ctx.sizes = heads, kv_heads, qkv_TO.shape[1] // (heads + 2 * kv_heads)
        y_THD = qkv_TO.new_empty(tokens, heads + 2 * kv_heads, ctx.sizes[2])
        x_THD = qkv_TO.view(y_THD.shape)
        _launch_rotation(x_THD, cos_TD, sin_TD, y_THD, 1.0, heads + kv_heads)
        ctx.save_for_backward(cos_TD, sin_TD)
        q, k, v = (part.transpose(0, 1) for part in y_THD.split([heads, kv_heads, kv_heads], dim=1))
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cos_TD, sin_TD = ctx.saved_tensors
        heads, kv_heads, width = ctx.sizes
        dy_TO = gradients[0].new_empty(len(cos_TD), (heads + 2 * kv_heads) * width)
        parts = dy_TO.view(len(cos_TD), -1, width).split([heads, kv_heads, kv_heads], dim=1)
        for gradient_HTD, part_THD, is_rotated in zip(gradients, parts, (True, True, False), strict=True):
            gradient = _rows_of(gradient_HTD).transpose(0, 1)
            _launch_rotation(gradient, cos_TD, sin_TD, part_THD, -1.0, gradient.shape[1] if is_rotated else 0)
        return dy_TO, None, None, None, None


def _launch_rotation(x: Tensor, cos: Tensor, sin: Tensor, y: Tensor, sign: float, rotated: int) -> None:
    tokens, heads, width = x.shape
    strides = (x.stride(0), x.stride(1), y.stride(0), y.stride(1))
    _kernels().rotate_heads[(tokens, heads)](
        x, cos, sin, y, *strides, sign, width, cos.shape[1], rotated, D=block_of(width), num_warps=1
    )


def rotated_heads(
    qkv_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor, heads: int, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [H, T, D], keys and values [K, T, D] of [T, (H + 2 K) D] factors, rotated by position; differentiable."""
    if has_triton(qkv_TO.device):
        return _RotatedHeads.apply(qkv_TO.contiguous(), cos_TD, sin_TD, heads, kv_heads)  # type: ignore[no-any-return, no-untyped-call]
    width = qkv_TO.shape[1] // (heads + 2 * kv_heads)
    x_HTD = qkv_TO.view(len(qkv_TO), -1, width).transpose(0, 1)
    q, k, v = x_HTD.split([heads, kv_heads, kv_heads])
    return rotate(q, cos_TD, sin_TD).to(v.dtype), rotate(k, cos_TD, sin_TD).to(v.dtype), v


def rotate(x: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """[..., T, D] turned by its tokens' angles in float32; numbers behind the angles' width stay."""
    turned, rest = x.float().split([cos_TD.shape[-1], x.shape[-1] - cos_TD.shape[-1]], dim=-1)
    first, second = turned.chunk(2, dim=-1)
    return torch.cat([turned * cos_TD + torch.cat([-second, first], dim=-1) * sin_TD, rest], dim=-1)


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """RMS norms of single heads, [D] each; None where a layer has none."""

    q: Tensor | None
    k: Tensor | None
    eps: float


@dataclass(frozen=True, slots=True)
class StaticCaches:
    """What a decode step over static buffers reads and writes of one layer: C cells of S slots, R = C S rows."""

    prompt_k: Tensor
    """[C, K, L, D], like `prompt_v`."""
    prompt_v: Tensor
    own_k: Tensor
    """[C, K, S, W, D], like `own_v`."""
    own_v: Tensor
    prompt_length_C: Tensor
    length_R: Tensor
    """Own keys of a row in front of this step's."""


def rotate_and_store(
    qkv_RO: Tensor, norms: HeadNorms, cos_RD: Tensor, sin_RD: Tensor, caches: StaticCaches, heads: int
) -> Tensor:
    """Queries [R, H, D] of a step, rotated; keys and values go behind their rows' own ones. By a kernel only."""
    _, kv_heads, slots, capacity, width = caches.own_k.shape
    q_RHD = qkv_RO.new_empty(len(qkv_RO), heads, width)
    _kernels().rotate_and_store[(len(qkv_RO), heads + 2 * kv_heads)](
        qkv_RO, norms.q, norms.k, cos_RD, sin_RD, caches.length_R, q_RHD, caches.own_k, caches.own_v,
        norms.eps, qkv_RO.stride(0), heads, kv_heads, slots, capacity, width, cos_RD.shape[1],
        HAS_NORM=norms.q is not None, D=block_of(width), num_warps=1,
    )  # fmt: skip
    return q_RHD


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """How scores become weights."""

    scaling: float
    window: int | None
    softcap: float | None
    sinks_H: Tensor | None


def attend_static(q_RHD: Tensor, caches: StaticCaches, rule: ScoreRule, columns: int) -> Tensor:
    """Attention of a step's queries to their prompts and own keys, this step's among them: [R, J], J = `columns`, of
    which the first H D are written. By a kernel only: a prompt is read once for all rows of its cell."""
    k = _kernels()
    rows, heads, width = q_RHD.shape
    cells, kv_heads, slots, capacity, _ = caches.own_k.shape
    prompt_capacity = caches.prompt_k.shape[2]
    prompt_parts, own_parts = -(-prompt_capacity // k.PROMPT_PART), -(-capacity // k.OWN_PART)
    parts, queries = prompt_parts + own_parts, heads // kv_heads
    largest = torch.empty(rows, heads, parts, dtype=torch.float32, device=q_RHD.device)
    total, summed = torch.empty_like(largest), largest.new_empty(rows, heads, parts, width)
    out_RJ = q_RHD.new_empty(rows, columns)
    cell = min(block_of(slots * queries), k.CELL_TILE)
    tiles = -(-slots * queries // cell)
    k.attend_parts[(cells * kv_heads, prompt_parts * tiles + slots * own_parts)](
        q_RHD, caches.prompt_k, caches.prompt_v, caches.own_k, caches.own_v, caches.prompt_length_C, caches.length_R,
        largest, total, summed, rule.scaling, rule.softcap or 1.0, rule.window or 0,
        kv_heads, slots, prompt_capacity, capacity, width, prompt_parts, tiles, parts,
        Q=queries, D=block_of(width), CELL=cell, ROW=block_of(queries),
        PROMPT_PART=k.PROMPT_PART, OWN_PART=k.OWN_PART, HAS_WINDOW=rule.window is not None,
        HAS_SOFTCAP=rule.softcap is not None, IS_EXACT=_is_exact(q_RHD), num_warps=4,
    )  # fmt: skip
    k.merge_parts[(rows, heads)](
        largest, total, summed, rule.sinks_H, out_RJ, heads, parts, width, columns,
        HAS_SINKS=rule.sinks_H is not None, PARTS=power_of_two(parts), D=block_of(width), num_warps=1,
    )  # fmt: skip
    return out_RJ


def _is_exact(q: Tensor) -> bool:
    """Whether products take their factors in float32; of others the interpreter on a CPU makes wrong sums."""
    return q.dtype == torch.float32 or q.device.type == "cpu"


def softmax(z_NV: Tensor, target_N: Tensor, temperature: float, dtype: torch.dtype, *, with_weights: bool) -> Softmax:
    """Like `kernels.head.softmax`. By a kernel only; nothing is written over `z_NV`."""
    z_NV = z_NV.contiguous()
    logprob_N, entropy_N, total_N = (z_NV.new_empty(len(z_NV), dtype=torch.float32) for _ in range(3))
    weight_NV = torch.empty_like(z_NV, dtype=dtype) if with_weights else None
    _kernels().softmax_rows[(len(z_NV),)](
        z_NV, target_N, weight_NV, logprob_N, entropy_N, total_N, 1.0 / temperature, z_NV.shape[1],
        HAS_WEIGHTS=with_weights, BLOCK=_VOCABULARY_BLOCK, num_warps=8,
    )  # fmt: skip
    return Softmax(logprob_N, entropy_N, total_N, weight_NV)


def softmax_gradient(
    z_NV: Tensor,
    target_N: Tensor,
    temperature: float,
    gradients: tuple[Tensor, Tensor],
    scale: float,
    dtype: torch.dtype,
) -> Tensor:
    """Gradient for z in `dtype`, times `scale`, of the log-probs and entropies whose `gradients` [N] are given."""
    z_NV, found = z_NV.contiguous(), softmax(z_NV, target_N, temperature, dtype, with_weights=False)
    dlogprob_N, dentropy_N = (gradient.float().contiguous() for gradient in gradients)
    dz_NV = torch.empty_like(z_NV, dtype=dtype)
    _kernels().softmax_gradient[(len(z_NV), -(-z_NV.shape[1] // _VOCABULARY_BLOCK))](
        z_NV, target_N, found.logprob_N, found.entropy_N, dlogprob_N, dentropy_N, dz_NV, 1.0 / temperature, scale,
        z_NV.shape[1], BLOCK=_VOCABULARY_BLOCK, num_warps=8,
    )  # fmt: skip
    return dz_NV
