"""Decoder layers backed by C++ kernels: whole decode steps; norm, RoPE, attention and SiLU in training passes.

A transformers layer is read as norms, linear layers and attention, rebuilt here in torch, and compared with the
original. Only a layer whose rebuilt form agrees runs on the kernels (`kernels/decode.cpp`, `kernels/learner.cpp`);
every other layer runs its own code.

Shapes: T tokens, I hidden width, H query heads, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupwise import kernels
from groupwise.kernels.attention import packed_attention
from groupwise.kernels.buffer import Buffer
from groupwise.kernels.decode import DecodeLayers, KVCaches, LayerWeights, LinearWeights
from groupwise.kernels.gpu_ops import rotate
from groupwise.kernels.learner import merge_heads, rms_norm, rotary_heads, silu_mul
from groupwise.policy.attention import AttentionContext, AttentionLayer, AttentionPlan, Segments
from groupwise.policy.fused_linear import FusedLinear, FusedLinearSlice
from groupwise.torch_internals import with_submodules
from groupwise.transformers_internals import (
    call_decoder_layer,
    decoder_modules,
    is_decoder_layer,
    position_embeddings,
    rotary_embedding,
)

TOLERANCE = 0.02
"""Largest difference between a layer and its reconstruction, as a share of the largest change the layer makes."""
_PROBE_TOKENS = 3


class DecodeAttention:
    """A plan whose tokens are one step of a grid of growing completions; see `rollout/native/kv_cache.py`."""

    def caches(self, layers: Sequence[int], kv_heads: int, width: int) -> KVCaches:
        """Keys and values of some layers, in order, with room for this step's."""
        raise NotImplementedError


class KernelLayer:
    """Replaces the `forward` of a decoder layer: kernels where they apply, else the layer's original code."""

    def __init__(self, layer: nn.Module, parts: LayerParts, context: AttentionContext, scratch: Buffer) -> None:
        self._layer = layer
        self._original_forward: Callable[..., Tensor] = layer.forward
        self._parts = parts
        self._context = context
        self._scratch = scratch
        self._indices: list[int] | None = None
        """Layers whose steps a call computes; None: the layer's original code runs."""
        self._steps: DecodeLayers | None = None
        self._can_pass = parts.can_pass

    def remove(self) -> None:
        """Restore the layer's original code."""
        self._layer.forward = self._original_forward

    def prepare(self, weights: Mapping[int, LayerWeights]) -> None:
        """Let a call of this layer compute the steps of these layers, by index."""
        self._indices = list(weights)
        self._steps = DecodeLayers(list(weights.values()), self._scratch)

    @property
    def index(self) -> int:
        """Number of the layer in the model."""
        return self._parts.attention.index

    def weights(self) -> LayerWeights:
        """The current weights in the kernel's form."""
        return self._parts.weights()

    def __call__(self, hidden_states: Tensor, *args: Any, **keywords: Any) -> Tensor:
        plan: Any = self._context.plan
        if isinstance(plan, DecodeAttention):
            if self._indices is None or not self._parts.qkv.adapters_enabled:
                return self._original_forward(hidden_states, *args, **keywords)
            return self._step(hidden_states, plan, **keywords)
        if not self._can_pass:
            return self._original_forward(hidden_states, *args, **keywords)
        return self._pass(hidden_states[0].float().contiguous(), *rotary_cos_sin(keywords), plan)[None]

    def _step(self, hidden_states: Tensor, plan: DecodeAttention, **keywords: Any) -> Tensor:
        """One token of every row through the layers that this one computes."""
        x_TI = hidden_states[0].float().contiguous()
        assert self._steps is not None
        assert self._indices is not None
        self._steps.run(
            x_TI, *rotary_cos_sin(keywords), plan.caches(self._indices, self._parts.kv_heads, self._parts.width)
        )
        return x_TI[None]

    def _pass(self, x_TI: Tensor, cos_TD: Tensor, sin_TD: Tensor, plan: AttentionPlan) -> Tensor:
        """The layer over the packed tokens of a pass, differentiable."""
        p = self._parts
        norm_in, norm_post = (n.weight.detach().float() for n in (p.norm_in, p.norm_post))
        qkv_TO = p.qkv.fused_output(rms_norm(x_TI, norm_in, p.eps, p.dtype))
        heads_HTD = rotary_heads(qkv_TO, cos_TD, sin_TD, p.heads, p.kv_heads)
        attended_HTD = self._attend(heads_HTD, plan)
        x_TI = x_TI + p.o.fused_output(merge_heads(attended_HTD, p.dtype))
        gate_up_TG = p.gate_up.fused_output(rms_norm(x_TI, norm_post, p.eps, p.dtype))
        return x_TI + p.down.fused_output(silu_mul(gate_up_TG))

    def _attend(self, heads_HTD: Tensor, plan: AttentionPlan) -> Tensor:
        """Attention of a pass, by the kernel where no window cuts it."""
        p, window = self._parts, self._parts.attention.window
        parts = heads_HTD.split([p.heads, p.kv_heads, p.kv_heads])
        if not isinstance(plan, Segments) or (window is not None and window < plan.longest):
            return plan.attend(p.attention, *parts)
        plan.store_kv(parts[1], parts[2])
        return packed_attention(heads_HTD, plan.segments, p.heads, p.kv_heads, p.attention.scaling, p.dtype)


def rotary_cos_sin(keywords: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the pass, [T, rotary]."""
    cos, sin = (t[0].float().contiguous() for t in position_embeddings(keywords))
    return cos, sin


def prepare_decoding(layers: Sequence[KernelLayer], num_layers: int) -> bool:
    """Read the current weights. True where the first layer's call computes all `num_layers` of the model."""
    layers = sorted(layers, key=lambda layer: layer.index)
    weights = {layer.index: each for layer in layers if (each := layer.weights()).fits}
    if len(weights) == num_layers and len({each.shape for each in weights.values()}) == 1:
        layers[0].prepare(weights)
        return True
    for layer in layers:
        if layer.index in weights:
            layer.prepare({layer.index: weights[layer.index]})
    return False


def only_first_layer(layers: nn.ModuleList) -> AbstractContextManager[None]:
    """Inside, a model has only the first of its layers: calling the others costs more than their share of a step."""
    return with_submodules(layers, {"0": layers[0]})


def install_kernels(model: nn.Module, context: AttentionContext, dtype: torch.dtype) -> list[KernelLayer]:
    """Replace the `forward` of every decoder layer that the kernels can compute; of none without kernels."""
    if kernels.compiled(dtype) is None:
        return []
    rotary = rotary_embedding(model)
    installed, scratch = [], Buffer()
    for layer in model.modules():
        if rotary is None or not is_decoder_layer(layer):
            continue
        parts = read_layer(layer, rotary, context)
        if parts is not None:
            installed.append(KernelLayer(layer, parts, context, scratch))
            layer.forward = installed[-1]
    return installed


class LayerParts:
    """Norms, fused linear layers and sizes of a decoder layer."""

    def __init__(self, layer: Any, attention: AttentionLayer, num_heads: tuple[int, int], rotary: int) -> None:
        modules = decoder_modules(layer)
        self.qkv, self.o = _fused_linear_of(*modules.qkv), _fused_linear_of(modules.o)
        self.gate_up, self.down = _fused_linear_of(*modules.gate_up), _fused_linear_of(modules.down)
        self.norm_in, self.norm_post = modules.norm_in, modules.norm_post
        self.norm_q, self.norm_k = modules.norm_q, modules.norm_k
        self.dtype = self.qkv.dtype
        self.attention = attention
        self.heads, self.kv_heads = num_heads
        self.width = self.o.sources[0].weight_OI.shape[1] // self.heads
        self.rotary = rotary
        self.eps = modules.eps

    @property
    def can_pass(self) -> bool:
        """Whether the kernels compute a pass: norms that are not trained, none of single heads."""
        trained = self.norm_in.weight.requires_grad or self.norm_post.weight.requires_grad
        return not trained and self.norm_q is None and self.norm_k is None and self.weights().fits

    def weights(self) -> LayerWeights:
        return LayerWeights(
            qkv=_linear_weights(self.qkv),
            o=_linear_weights(self.o),
            gate_up=_linear_weights(self.gate_up),
            down=_linear_weights(self.down),
            norm_in=self.norm_in.weight.detach().float(),
            norm_post=self.norm_post.weight.detach().float(),
            norm_q=None if self.norm_q is None else self.norm_q.weight.detach().float(),
            norm_k=None if self.norm_k is None else self.norm_k.weight.detach().float(),
            heads=self.heads,
            kv_heads=self.kv_heads,
            width=self.width,
            rotary=self.rotary,
            eps=self.eps,
            scaling=self.attention.scaling,
            window=self.attention.window,
        )

    def heads_of(self, x_TI: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries HTD, keys and values KTD as the kernel computes them."""
        return self.rotated(torch.cat(self.qkv.outputs(self._norm(x_TI, self.norm_in)), dim=-1), cos_TD, sin_TD)

    def rotated(self, y_TO: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of the three side by side, in float32."""
        sizes = [self.heads * self.width, self.kv_heads * self.width, self.kv_heads * self.width]
        q, k, v = (part.unflatten(-1, (-1, self.width)).transpose(0, 1) for part in y_TO.float().split(sizes, dim=-1))
        q, k = self._norm(q, self.norm_q), self._norm(k, self.norm_k)
        return rotate(q, cos_TD, sin_TD), rotate(k, cos_TD, sin_TD), v

    def after_attention(self, x_TI: Tensor, attended_TI: Tensor) -> Tensor:
        """The layer's output as the kernel computes it."""
        x_TI = x_TI + self.o.outputs(attended_TI)[0].float()
        gate, up = (part.float() for part in self.gate_up.outputs(self._norm(x_TI, self.norm_post)))
        return x_TI + self.down.outputs(F.silu(gate) * up)[0].float()

    def _norm(self, x: Tensor, norm: Any) -> Tensor:
        if norm is None:
            return x
        weight: Tensor = norm.weight.detach().float()
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * weight


class LayerProbe:
    """An attention plan that records its inputs and returns the values."""

    def __init__(self) -> None:
        self.layer: AttentionLayer | None = None
        self.q_HTD = self.k_KTD = self.v_KTD = torch.empty(0)

    def attend(self, layer: AttentionLayer, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor) -> Tensor:
        self.layer, self.q_HTD, self.k_KTD, self.v_KTD = layer, q_HTD, k_KTD, v_KTD
        return v_KTD.repeat_interleave(len(q_HTD) // len(k_KTD), dim=0)


@torch.no_grad()
def read_layer(layer: Any, rotary: Any, context: AttentionContext) -> LayerParts | None:
    """The parts of a layer; None where the layer rebuilt from them computes something else."""
    probe = LayerProbe()
    try:
        weight = decoder_modules(layer).norm_in.weight
        position = torch.arange(5, 5 + _PROBE_TOKENS, device=weight.device)[None]
        x_TI = torch.randn(_PROBE_TOKENS, len(weight), generator=torch.Generator().manual_seed(0)).to(weight.device)
        cos, sin = rotary(x_TI, position)
        with context.use(probe):
            output = call_decoder_layer(layer, x_TI[None], position, (cos, sin))
        assert probe.layer is not None
        if probe.layer.softcap is not None or probe.layer.sinks_H is not None:
            return None
        parts = LayerParts(layer, probe.layer, (len(probe.q_HTD), len(probe.k_KTD)), cos.shape[-1])
        heads = parts.heads_of(x_TI, cos[0], sin[0])
        attended_HTD = heads[2].repeat_interleave(parts.heads // parts.kv_heads, dim=0)
        again = parts.after_attention(x_TI, attended_HTD.transpose(0, 1).flatten(1))
    except (AttributeError, RuntimeError, TypeError, ValueError, IndexError):
        return None  # another kind of layer: it runs its own code
    pairs = [
        (probe.q_HTD, heads[0]),
        (probe.k_KTD, heads[1]),
        (probe.v_KTD, heads[2]),
        (output[0] - x_TI, again - x_TI),
    ]
    return parts if all(_are_equal(theirs, ours) for theirs, ours in pairs) else None


def _are_equal(theirs: Tensor, ours: Tensor) -> bool:
    if theirs.shape != ours.shape or theirs.is_meta:
        return theirs.shape == ours.shape
    return bool((theirs.float() - ours).abs().max() <= TOLERANCE * theirs.float().abs().max())


def _fused_linear_of(*layers: nn.Module) -> FusedLinear:
    """The `FusedLinear` that computes exactly these layers."""
    linears = [layer.linear for layer in layers if isinstance(layer, FusedLinearSlice)]
    if len(linears) != len(layers) or any(p is not linears[0] for p in linears):
        raise TypeError("the layers are not computed as one product")
    if len(linears[0].sizes) != len(layers):
        raise TypeError("the product has more parts")
    return linears[0]


def _linear_weights(linear: FusedLinear) -> LinearWeights:
    assert linear.weight_OI is not None
    bias = None if linear.bias_O is None else linear.bias_O.float()
    return LinearWeights(linear.weight_OI, linear.a_RI, linear.b_OR, bias, linear.panels)
