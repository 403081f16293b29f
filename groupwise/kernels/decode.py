"""Calls the decode kernel: fills the structures of `decode.cpp` from tensors that the caller keeps alive."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from groupwise.kernels.buffer import Buffer
from groupwise.kernels.build import compiled
from groupwise.kernels.panels import PanelCache, pack_weight
from groupwise.kernels.structs import Int, KVCachesStruct, LayerStruct, LinearStruct, StepStruct

RANK_STEP = 32
"""Products take factors in steps of so many."""
PROMPT_STEP = 16
"""There is room for a multiple of so many prompt keys."""


@dataclass(frozen=True)
class LinearWeights:
    """`y = x W' + (x A') B' + bias`: factors W [O, I], A [R, I] and B [O, R], float32 bias."""

    weight_OI: Tensor
    a_RI: Tensor | None
    b_OR: Tensor | None
    bias_O: Tensor | None
    panels: PanelCache = field(default_factory=PanelCache)
    """Keeps W as the kernel reads it from one use to the next."""

    @property
    def fits(self) -> bool:
        """Whether the kernel can compute it."""
        outputs, inputs = self.weight_OI.shape
        parts = [t for t in (self.weight_OI, self.a_RI, self.b_OR) if t is not None]
        dtype = self.weight_OI.dtype
        is_plain = all(t.dtype == dtype and t.is_contiguous() and t.device.type == "cpu" for t in parts)
        return is_plain and outputs % 32 == 0 and inputs % 32 == 0

    def structure(self) -> tuple[LinearStruct, list[Tensor | None]]:
        """The kernel's structure, and the tensors that it points to."""
        outputs, inputs = self.weight_OI.shape
        adapters, rank = self._adapters()
        tensors = [self.panels.get(self.weight_OI), *adapters, self.bias_O]
        is_low = tensors[0].dtype != self.weight_OI.dtype  # type: ignore[union-attr]
        return LinearStruct(*map(_address, tensors), inputs, outputs, rank, is_low), tensors

    def _adapters(self) -> tuple[list[Tensor | None], int]:
        """A and B as the kernel reads them, and their rank, which zeros fill up to a multiple of 32."""
        if self.a_RI is None or self.b_OR is None:
            return [None, None], 0
        missing = -len(self.a_RI) % RANK_STEP
        a_RI, b_OR = F.pad(self.a_RI, (0, 0, 0, missing)), F.pad(self.b_OR, (0, missing))
        return [pack_weight(a_RI), pack_weight(b_OR)], len(a_RI)


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
    def shape(self) -> tuple[int, ...]:
        """Sizes that layers must share to be computed in one call."""
        products = (self.qkv, self.o, self.gate_up, self.down)
        return (self.heads, self.kv_heads, self.width, self.rotary, *chain(*(p.weight_OI.shape for p in products)))

    @property
    def fits(self) -> bool:
        """Whether the kernel can compute the layer."""
        products = (self.qkv, self.o, self.gate_up, self.down)
        return all(p.fits for p in products) and self.width % 16 == 0 and self.width <= 512 and self.rotary % 2 == 0


@dataclass(frozen=True)
class KVCaches:
    """Positions of the rows of a step, and keys and values of the layers: float32 except the indices.

    C cells of S slots, K key/value heads, D width; the tensors of a layer are the prompts' keys [C * K, D, longest] and
    values [C * K, longest, D], where `longest` is a multiple of `PROMPT_STEP`, then the completions' own
    [C * K, S, capacity, D].
    """

    layers: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]
    prompt_length_C: Tensor
    start_R: Tensor
    slots: int
    clock: int


class DecodeLayers:
    """Layers of one shape, ready to be run one after another. Do not replace the tensors behind them meanwhile."""

    def __init__(self, weights: Sequence[LayerWeights], scratch: Buffer | None = None) -> None:
        """`scratch` is working memory that several may share; none of them runs while another does."""
        self.dtype = weights[0].qkv.weight_OI.dtype
        self._kept: list[object] = [weights]
        self._scratch = scratch or Buffer()
        self._layers = (LayerStruct * len(weights))(*map(self._structure, weights))

    def _structure(self, w: LayerWeights) -> LayerStruct:
        products, kept = zip(*(p.structure() for p in (w.qkv, w.o, w.gate_up, w.down)), strict=True)
        self._kept.append(kept)
        norms = [_address(n) for n in (w.norm_in, w.norm_post, w.norm_q, w.norm_k)]
        return LayerStruct(*products, *norms, w.heads, w.kv_heads, w.width, w.rotary, w.eps, w.scaling, w.window or 0)

    def run(self, x_RI: Tensor, cos_RD: Tensor, sin_RD: Tensor, caches: KVCaches) -> None:
        """Take the residual stream through the layers, in place; their keys and values join the caches at the clock."""
        kernels = compiled(self.dtype)
        assert kernels is not None
        c = caches
        tensors = (x_RI, cos_RD, sin_RD)
        assert all(t.dtype == torch.float32 and t.is_contiguous() for t in (*tensors, *chain(*c.layers)))
        assert len(c.layers) == len(self._layers)
        prompt_k, _, own_k, _ = c.layers[0]
        assert prompt_k.shape[2] % PROMPT_STEP == 0
        sizes = (len(c.prompt_length_C), c.slots, prompt_k.shape[2], own_k.shape[2], c.clock)
        step = StepStruct(*(t.data_ptr() for t in (*tensors, c.prompt_length_C, c.start_R)), *sizes, None)
        scratch = self._scratch.take(torch.uint8, kernels.scratch_bytes(self._layers, ctypes.byref(step)))
        step.scratch = scratch.data_ptr()
        places = (KVCachesStruct * len(c.layers))(*(KVCachesStruct(*map(_address, each)) for each in c.layers))
        kernels.decode_layers(self._layers, places, Int(len(self._layers)), ctypes.byref(step))


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
