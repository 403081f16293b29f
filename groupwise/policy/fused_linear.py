"""Fused q/k/v and gate/up matmuls; LoRA unmerged, sums in float32.

Shapes: T tokens, I input features, O output features (of all fused siblings together), R adapter rank (likewise).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupwise.kernels.panels import PanelCache
from groupwise.policy.backend import backend_of
from groupwise.policy.memory_pages import release_pages
from groupwise.torch_internals import has_onednn_bf16, onednn_linear, onednn_linear_add, reorder_linear_weight

_ALIGNED = 8
"""Numbers a row of a joined weight is a multiple of: products of bfloat16 are slow on others."""
FEW_ROWS = 16
"""Up to here a CPU multiplies low-rank factors faster in float32 than in bfloat16 (4 to 11 us against 14 to 38)."""


@dataclass(frozen=True)
class LoraPair:
    """One LoRA pair: the layer computes `x W' + scale (x A') B'`."""

    a_RI: nn.Parameter
    b_OR: nn.Parameter
    scale: float


@dataclass(frozen=True)
class LinearSource:
    """Weight, bias and adapters of a linear layer of the user's model: the user's own tensors, no copies."""

    weight_OI: Tensor
    bias_O: Tensor | None
    adapters: tuple[LoraPair, ...]


def read_source(layer: nn.Module) -> LinearSource | str:
    """The source of a linear layer, plain or wrapped by LoRA, or the reason why it cannot be read."""
    module: Any = layer
    if type(module) is nn.Linear:
        return LinearSource(module.weight, module.bias, ())
    base = getattr(module, "base_layer", None)
    if base is None or not hasattr(module, "lora_A"):
        return f"{type(module).__name__} is not a linear layer that can be fused"
    if type(base) is not nn.Linear:
        return f"LoRA wraps a {type(base).__name__}"
    if getattr(module, "lora_variant", None) or getattr(module, "fan_in_fan_out", False) or module.merged:
        return "the adapter is not plain, unmerged LoRA"
    adapters = []
    for name in module.active_adapters:
        if name not in module.lora_A:
            continue
        a, b = module.lora_A[name], module.lora_B[name]
        if b.bias is not None:
            return "the adapter has a bias"
        adapters.append(LoraPair(a.weight, b.weight, float(module.scaling[name])))
    return LinearSource(base.weight, base.bias, tuple(adapters))


def round_stochastically(weight: Tensor, seed: int) -> Tensor:
    """bfloat16 of a float32 tensor, rounded up with the probability that keeps the mean.

    Nearest rounding would hide every update smaller than half a bfloat16 step. The noise is a function of the seed
    alone, so an unchanged weight rounds to the same value every time.
    """
    generator = torch.Generator(weight.device).manual_seed(seed)
    noise = torch.randint(0, 1 << 16, weight.shape, generator=generator, dtype=torch.int32, device=weight.device)
    bits = weight.detach().contiguous().view(torch.int32)
    return ((bits + noise) & -65536).view(torch.float32).to(torch.bfloat16)


class FusedLinear:
    """One or several sibling linear layers, computed as a single product `y = x W' + (x A') B' + b`.

    The adapter's part is computed first and enters the base product's float32 accumulator, so an update far below the
    rounding step of y still moves it. Call `refresh` after every change of the weights.
    """

    def __init__(self, sources: list[LinearSource], dtype: torch.dtype, seed: int = 0) -> None:
        self.sources = sources
        self.dtype = dtype
        self.seed = seed
        self.adapters_enabled = True
        self.sizes = [s.weight_OI.shape[0] for s in sources]
        self.weight_OI: Tensor | None = None
        self.joined_OJ: Tensor | None = None
        """Weight and B side by side, J = I + R rounded up: `[x, x A'] joined'` is the whole product, where the device's
        traits have it so. `weight_OI` and `b_OR` are then parts of it."""
        self.packed: Any = None
        self.panels = PanelCache()
        self.bias_O: Tensor | None = None
        self.a_RI: Tensor | None = None
        self.b_OR: Tensor | None = None
        self._exact: tuple[Tensor, Tensor] | None = None
        """The adapters in float32, for products with few rows on a CPU."""
        self._input: Tensor | None = None
        self._outputs: list[Tensor | None] = []
        self.refresh()

    @property
    def is_trained(self) -> bool:
        """Whether the base weights themselves are trained (full fine-tuning)."""
        return any(s.weight_OI.requires_grad for s in self.sources)

    @property
    def parameters(self) -> list[Tensor]:
        """Every tensor a gradient may be wanted for: weights, then biases, then adapter pairs."""
        flat: list[Tensor] = [s.weight_OI for s in self.sources]
        flat += [s.bias_O for s in self.sources if s.bias_O is not None]
        for source in self.sources:
            for adapter in source.adapters:
                flat += [adapter.a_RI, adapter.b_OR]
        return flat

    @torch.no_grad()
    def refresh(self) -> None:
        """Read the current weights."""
        if self.weight_OI is None or self.is_trained:
            self.weight_OI = self._fused_weight()
            self.packed, self.panels = None, PanelCache()
        if any(s.bias_O is not None for s in self.sources):
            zeros = [s.weight_OI.new_zeros(s.weight_OI.shape[0]) for s in self.sources]
            biases = [s.bias_O if s.bias_O is not None else z for s, z in zip(self.sources, zeros, strict=True)]
            self.bias_O = updated_in_place(self.bias_O, torch.cat(biases).to(self.dtype))
        self._refresh_adapters()

    def _fused_weight(self) -> Tensor:
        """The siblings' weights stacked in the compute dtype; a single weight of that dtype is not copied."""
        first = self.sources[0].weight_OI
        if len(self.sources) == 1 and first.dtype == self.dtype and not self._can_join:
            return first.detach()
        fused_OI = self.weight_OI
        if fused_OI is None:
            fused_OI = self._new_weight(first)
        rounds_up = self.dtype == torch.bfloat16 and first.dtype == torch.float32
        for part, (rows_OI, source) in enumerate(zip(fused_OI.split(self.sizes), self.sources, strict=True)):
            weight = source.weight_OI
            is_dithered = rounds_up and weight.requires_grad
            rows_OI.copy_(round_stochastically(weight, self.seed + part) if is_dithered else weight)
            if not weight.requires_grad:
                release_pages(weight)
        return fused_OI

    @property
    def _can_join(self) -> bool:
        """Whether weight and adapters form one product: frozen weights under adapters, on a device that has it so."""
        is_adapted = any(s.adapters for s in self.sources)
        return is_adapted and not self.is_trained and backend_of(self.sources[0].weight_OI.device).has_joined_adapters

    def _new_weight(self, like: Tensor) -> Tensor:
        """Memory of the stacked weights."""
        width, outputs = like.shape[1], sum(self.sizes)
        if not self._can_join:
            return like.new_empty(outputs, width, dtype=self.dtype, requires_grad=False)
        rank = sum(adapter.a_RI.shape[0] for source in self.sources for adapter in source.adapters)
        columns = -(-(width + rank) // _ALIGNED) * _ALIGNED
        self.joined_OJ = like.new_zeros(outputs, columns, dtype=self.dtype, requires_grad=False)
        self.b_OR = self.joined_OJ[:, width : width + rank]
        return self.joined_OJ[:, :width]

    def _refresh_adapters(self) -> None:
        adapters = [(part, a) for part, s in enumerate(self.sources) for a in s.adapters]
        if not adapters:
            return
        a_RI = torch.cat([a.a_RI for _, a in adapters]).float()
        b_OR = a_RI.new_zeros(sum(self.sizes), a_RI.shape[0])
        for (rows, columns), (_, adapter) in zip(self._blocks(), adapters, strict=True):
            b_OR[rows, columns] = adapter.b_OR.float() * adapter.scale
        self.a_RI, self.b_OR = (
            updated_in_place(self.a_RI, a_RI.to(self.dtype)),
            updated_in_place(self.b_OR, b_OR.to(self.dtype)),
        )
        if self.dtype == torch.bfloat16 and backend_of(a_RI.device).has_kernels:
            self._exact = (a_RI, b_OR)

    def tensors(self) -> list[Tensor]:
        """Tensors that a product reads; the same ones after every refresh."""
        return [t for t in (self.weight_OI, self.bias_O, self.a_RI, self.b_OR) if t is not None]

    def _blocks(self) -> list[tuple[slice, slice]]:
        """Rows and columns of each adapter's B in the block-diagonal `b_OR`."""
        blocks, row, column = [], 0, 0
        for source, size in zip(self.sources, self.sizes, strict=True):
            for adapter in source.adapters:
                rank = adapter.a_RI.shape[0]
                blocks.append((slice(row, row + size), slice(column, column + rank)))
                column += rank
            row += size
        return blocks

    def pack(self) -> None:
        """Lay the weights out for products with few rows (oneDNN on CPU); a no-op elsewhere."""
        if self.packed is None and self.weight_OI is not None and can_pack(self.weight_OI):
            self.packed = reorder_linear_weight(self.weight_OI, 16)

    def forward_slice(self, x: Tensor, part: int) -> Tensor:
        """Output of one sibling. The first call computes all of them; the others return stored results."""
        if self._input is not x or self._outputs[part] is None:
            self._outputs = list(self.outputs(x))
            self._input = x
        output = self._outputs[part]
        assert output is not None
        self._outputs[part] = None
        if all(o is None for o in self._outputs):
            self._input = None
        return output

    def outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Outputs [..., O_part] of all siblings, in the compute dtype."""
        return torch.split(self.fused_output(x), self.sizes, dim=-1)

    def fused_output(self, x: Tensor) -> Tensor:
        """Outputs [..., O] of all siblings side by side, in the compute dtype."""
        if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters)):
            return _FusedLinearFunction.apply(self, x, *self.parameters)  # type: ignore[no-any-return, no-untyped-call]
        x_TI = x.reshape(-1, x.shape[-1])
        if self._exact is not None and self.adapters_enabled and len(x_TI) <= FEW_ROWS:
            a_RI, b_OR = self._exact
            delta_TO = ((x_TI.float() @ a_RI.t()) @ b_OR.t()).to(self.dtype)
            y_TO = self._add_product(x_TI.to(self.dtype), delta_TO)
        else:
            x_TI = x_TI.to(self.dtype)
            y_TO = self.product(x_TI, self.down(x_TI))
        return y_TO.view(*x.shape[:-1], -1)

    @property
    def columns(self) -> int:
        """J: numbers a row of an input of `output_of` has room for, the input's I first."""
        assert self.weight_OI is not None
        return self.weight_OI.shape[1] if self.joined_OJ is None else self.joined_OJ.shape[1]

    def output_of(self, x_TJ: Tensor) -> Tensor:
        """Outputs [T, O] of all siblings for factors that nobody else reads: columns behind the I first are written.

        Its gradient has J columns, too; those behind the first I mean nothing.
        """
        if self.joined_OJ is None:
            return self.fused_output(x_TJ)
        if not self.adapters_enabled:
            return self.fused_output(x_TJ[:, : self.width])
        if torch.is_grad_enabled() and (x_TJ.requires_grad or any(p.requires_grad for p in self.parameters)):
            return _JoinedLinearFunction.apply(self, x_TJ, *self.parameters)  # type: ignore[no-any-return, no-untyped-call]
        return F.linear(self.join(x_TJ), self.joined_OJ, self.bias_O)

    def join(self, x_TJ: Tensor) -> Tensor:
        """The same with `x A'` behind the input's numbers, and zeros behind it."""
        assert self.a_RI is not None
        rank = self.a_RI.shape[0]
        torch.mm(x_TJ[:, : self.width], self.a_RI.t(), out=x_TJ[:, self.width : self.width + rank])
        if self.columns > self.width + rank:
            x_TJ[:, self.width + rank :] = 0
        return x_TJ

    @property
    def width(self) -> int:
        """I."""
        assert self.weight_OI is not None
        return self.weight_OI.shape[1]

    def down(self, x_TI: Tensor) -> Tensor | None:
        """The adapters' inner activations `x A'`, shape TR."""
        return x_TI @ self.a_RI.t() if self.a_RI is not None and self.adapters_enabled else None

    def product(self, x_TI: Tensor, h_TR: Tensor | None) -> Tensor:
        assert self.weight_OI is not None
        if h_TR is None:
            return apply_linear(x_TI, self.weight_OI, self.bias_O, self.packed)
        assert self.b_OR is not None
        return self._add_product(x_TI, F.linear(h_TR, self.b_OR))

    def _add_product(self, x_TI: Tensor, delta_TO: Tensor) -> Tensor:
        """`delta + x W' + b`, summed in float32 and rounded once; `delta` may be overwritten."""
        assert self.weight_OI is not None
        if self.bias_O is not None:
            delta_TO += self.bias_O
        if self.packed is not None:
            return onednn_linear_add(x_TI, delta_TO, self.packed)
        return delta_TO.addmm_(x_TI, self.weight_OI.t())  # in place: another tensor of this size costs a tenth more


def updated_in_place(old: Tensor | None, new: Tensor) -> Tensor:
    """`new` copied into the memory of `old`, which recorded steps read; `new` itself where that cannot be."""
    if old is None or old.shape != new.shape or old.data_ptr() == new.data_ptr():
        return new
    return old.copy_(new)


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN's pre-packed layout exists for this weight here."""
    if not backend_of(weight.device).has_kernels or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or _is_for_onednn(weight)


def _is_for_onednn(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by this weight as it is, 5% faster than torch's own call of it."""
    is_low = weight.dtype == torch.bfloat16 and backend_of(weight.device).has_kernels
    return is_low and has_onednn_bf16()


def apply_linear(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, packed: Any = None) -> Tensor:
    """`x W' + b`, through the packed weight where there is one."""
    if packed is not None or _is_for_onednn(weight_OI):
        return onednn_linear(x_TI, weight_OI if packed is None else packed, bias_O)
    return F.linear(x_TI, weight_OI, bias_O)


class _FusedLinearFunction(torch.autograd.Function):
    """Forward as in `FusedLinear.fused_output`; the backward keeps one copy of x for all siblings and adapters."""

    @staticmethod
    def forward(ctx: Any, linear: FusedLinear, x: Tensor, *parameters: Tensor) -> Tensor:
        x_TI = x.reshape(-1, x.shape[-1]).to(linear.dtype)
        h_TR = linear.down(x_TI)
        y_TO = linear.product(x_TI, h_TR)
        ctx.linear, ctx.x_shape, ctx.x_dtype = linear, x.shape, x.dtype
        ctx.weight_OI, ctx.a_RI, ctx.b_OR = linear.weight_OI, linear.a_RI, linear.b_OR
        ctx.save_for_backward(x_TI, h_TR)
        return y_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        linear: FusedLinear = ctx.linear
        x_TI, h_TR = ctx.saved_tensors
        dy_TO = dy.reshape(-1, dy.shape[-1]).to(linear.dtype)
        dh_TR = dy_TO @ ctx.b_OR if h_TR is not None else None
        dx = None
        if ctx.needs_input_grad[1]:
            dx_TI = dy_TO @ ctx.weight_OI if dh_TR is None else (dh_TR @ ctx.a_RI).addmm_(dy_TO, ctx.weight_OI)
            dx = dx_TI.to(ctx.x_dtype).view(ctx.x_shape)
        grads = _parameter_gradients(linear, ctx.needs_input_grad[2:], x_TI, h_TR, dy_TO, dh_TR)
        return (None, dx, *grads)


class _JoinedLinearFunction(torch.autograd.Function):
    """`[x, x A'] joined' + b`, forward and backward one large product each; see `FusedLinear.output_of`."""

    @staticmethod
    def forward(ctx: Any, linear: FusedLinear, x_TJ: Tensor, *parameters: Tensor) -> Tensor:
        assert linear.joined_OJ is not None
        linear.join(x_TJ)
        ctx.linear, ctx.joined_OJ, ctx.a_RI = linear, linear.joined_OJ, linear.a_RI
        ctx.save_for_backward(x_TJ)
        return F.linear(x_TJ, linear.joined_OJ, linear.bias_O)

    @staticmethod
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, ...]:
        linear: FusedLinear = ctx.linear
        (x_TJ,) = ctx.saved_tensors
        width, rank = linear.width, len(ctx.a_RI)
        dy_TO = dy_TO.to(linear.dtype)
        dx_TJ = dy_TO @ ctx.joined_OJ
        h_TR, dh_TR = (x[:, width : width + rank] for x in (x_TJ, dx_TJ))
        grads = _parameter_gradients(linear, ctx.needs_input_grad[2:], x_TJ[:, :width], h_TR, dy_TO, dh_TR)
        if not ctx.needs_input_grad[1]:
            return (None, None, *grads)
        dx_TJ[:, :width].addmm_(dh_TR, ctx.a_RI)
        return (None, dx_TJ, *grads)


def _parameter_gradients(
    linear: FusedLinear,
    needed: tuple[bool, ...],
    x_TI: Tensor,
    h_TR: Tensor | None,
    dy_TO: Tensor,
    dh_TR: Tensor | None,
) -> list[Tensor | None]:
    """Gradients in the order of `FusedLinear.parameters`, in each parameter's own dtype."""
    wanted = iter(zip(linear.parameters, needed, strict=True))
    grads: list[Tensor | None] = []

    def give(value: Callable[[], Tensor]) -> None:
        parameter, is_needed = next(wanted)
        grads.append(value().to(parameter.dtype) if is_needed else None)

    dy_parts = dy_TO.split(linear.sizes, dim=-1)
    for dy_part in dy_parts:
        give(lambda dy_part=dy_part: dy_part.t() @ x_TI)  # type: ignore[misc]
    for source, dy_part in zip(linear.sources, dy_parts, strict=True):
        if source.bias_O is not None:
            give(lambda dy_part=dy_part: dy_part.sum(0, dtype=torch.float32))  # type: ignore[misc]
    if h_TR is None or dh_TR is None:
        return grads + [None] * (len(linear.parameters) - len(grads))
    da_RI, db_RO = dh_TR.t() @ x_TI, h_TR.t().contiguous() @ dy_TO  # B's gradient transposed: a third faster
    scales = [a.scale for s in linear.sources for a in s.adapters]
    for (rows, columns), scale in zip(linear._blocks(), scales, strict=True):
        give(lambda columns=columns: da_RI[columns])  # type: ignore[misc]
        give(lambda rows=rows, columns=columns, scale=scale: db_RO[columns, rows].t() * scale)  # type: ignore[misc]
    return grads


class FusedLinearSlice(nn.Module):
    """Stands where a linear layer stood and returns its slice of the output."""

    def __init__(self, linear: FusedLinear, part: int) -> None:
        super().__init__()
        self.linear = linear
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.linear.forward_slice(x, self.part)
