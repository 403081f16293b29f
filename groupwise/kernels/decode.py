"""Calls the decode kernel: the structures of `decode.cpp`, filled from tensors that the caller keeps alive."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .build import compiled
from .panels import Panels, lay_out

_Pointer = ctypes.c_void_p
_Int = ctypes.c_int64


class _Linear(ctypes.Structure):
    _fields_ = (
        ("weight", _Pointer), ("a", _Pointer), ("b", _Pointer), ("bias", _Pointer),
        ("inputs", _Int), ("outputs", _Int), ("rank", _Int), ("is_low", _Int),
    )  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_ = (
        ("qkv", _Linear), ("o", _Linear), ("gate_up", _Linear), ("down", _Linear),
        ("norm_in", _Pointer), ("norm_post", _Pointer), ("norm_q", _Pointer), ("norm_k", _Pointer),
        ("heads", _Int), ("kv_heads", _Int), ("width", _Int), ("rotary", _Int),
        ("eps", ctypes.c_float), ("scaling", ctypes.c_float), ("window", _Int),
    )  # fmt: skip


class _Step(ctypes.Structure):
    _fields_ = (
        ("x", _Pointer), ("cos", _Pointer), ("sin", _Pointer), ("prompt_k", _Pointer), ("prompt_v", _Pointer),
        ("own_k", _Pointer), ("own_v", _Pointer), ("prompt_length", _Pointer), ("start", _Pointer),
        ("cells", _Int), ("slots", _Int), ("longest", _Int), ("capacity", _Int), ("clock", _Int),
        ("scratch", _Pointer),
    )  # fmt: skip


@dataclass(frozen=True)
class LinearWeights:
    """`y = x W' + (x A') B' + bias`: factors W [O, I], A [R, I] and B [O, R], float32 bias."""

    weight_OI: Tensor
    a_RI: Tensor | None
    b_OR: Tensor | None
    bias_O: Tensor | None
    panels: Panels = field(default_factory=Panels)
    """Keeps W as the kernel reads it from one use to the next."""

    @property
    def fits(self) -> bool:
        """Whether the kernel can compute it."""
        outputs, inputs = self.weight_OI.shape
        parts = [t for t in (self.weight_OI, self.a_RI, self.b_OR) if t is not None]
        dtype = self.weight_OI.dtype
        is_plain = all(t.dtype == dtype and t.is_contiguous() and t.device.type == "cpu" for t in parts)
        rank = 0 if self.a_RI is None else self.a_RI.shape[0]
        return is_plain and outputs % 32 == 0 and inputs % 32 == 0 and (rank % 2 == 0 or dtype == torch.float32)

    def structure(self) -> tuple[_Linear, list[Tensor | None]]:
        """What the kernel is given, and the tensors it points to."""
        rank = 0 if self.a_RI is None else self.a_RI.shape[0]
        outputs, inputs = self.weight_OI.shape
        adapters = [None if t is None else lay_out(t) for t in (self.a_RI, self.b_OR)]
        tensors = [self.panels.of(self.weight_OI), *adapters, self.bias_O]
        is_low = tensors[0].dtype != self.weight_OI.dtype  # type: ignore[union-attr]
        return _Linear(*map(_address, tensors), inputs, outputs, rank, is_low), tensors


@dataclass(frozen=True)
class LayerWeights:
    """A decoder layer: norm, attention, residual, norm, gated feed-forward with SiLU, residual."""

    qkv: LinearWeights
    o: LinearWeights
    gate_up: LinearWeights
    down: LinearWeights
    norm_in: Tensor
    norm_post: Tensor
    norm_q: Tensor | None
    norm_k: Tensor | None
    """Float32 weights of the norms of single heads, where there are some."""
    heads: int
    kv_heads: int
    width: int
    rotary: int
    eps: float
    scaling: float
    window: int | None

    @property
    def fits(self) -> bool:
        """Whether the kernel can compute the layer."""
        products = (self.qkv, self.o, self.gate_up, self.down)
        return all(p.fits for p in products) and self.width % 16 == 0 and self.width <= 512 and self.rotary % 2 == 0


@dataclass(frozen=True)
class Caches:
    """Where the rows of a step stand, and the keys and values of one layer: all float32 but the indices.

    C cells of S slots, K key/value heads, D width; prompts [C * K, longest, D], own [C * K, S, capacity, D].
    """

    prompt_k: Tensor
    prompt_v: Tensor
    own_k: Tensor
    own_v: Tensor
    prompt_length_C: Tensor
    start_R: Tensor
    slots: int
    clock: int


class DecodeLayer:
    """One layer ready to be called. The tensors behind it must not be replaced while it is used."""

    def __init__(self, weights: LayerWeights) -> None:
        w = self.weights = weights
        products, self._kept = zip(*(p.structure() for p in (w.qkv, w.o, w.gate_up, w.down)), strict=True)
        norms = [_address(n) for n in (w.norm_in, w.norm_post, w.norm_q, w.norm_k)]
        sizes = (w.heads, w.kv_heads, w.width, w.rotary, w.eps, w.scaling, w.window or 0)
        self._layer = _Layer(*products, *norms, *sizes)

    def run(self, x_RI: Tensor, cos_RD: Tensor, sin_RD: Tensor, caches: Caches) -> None:
        """Take the residual stream through the layer, in place; its keys and values join the caches at the clock."""
        kernels = compiled(self.weights.qkv.weight_OI.dtype)
        assert kernels is not None
        c = caches
        tensors = (x_RI, cos_RD, sin_RD, c.prompt_k, c.prompt_v, c.own_k, c.own_v)
        assert all(t.dtype == torch.float32 and t.is_contiguous() for t in tensors)
        sizes = (len(c.prompt_length_C), c.slots, c.prompt_k.shape[1], c.own_k.shape[2], c.clock)
        pointers = [t.data_ptr() for t in (*tensors, c.prompt_length_C, c.start_R)]
        step = _Step(*pointers, *sizes, None)
        scratch = _scratch(kernels.scratch_bytes(ctypes.byref(self._layer), ctypes.byref(step)))
        step.scratch = scratch.data_ptr()
        kernels.decode_layer(ctypes.byref(self._layer), ctypes.byref(step))


_memory = torch.empty(0, dtype=torch.uint8)


def _scratch(num_bytes: int) -> Tensor:
    """Working memory for one call, kept from call to call."""
    global _memory
    if len(_memory) < num_bytes:
        _memory = torch.empty(2 * num_bytes, dtype=torch.uint8)
    return _memory


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
