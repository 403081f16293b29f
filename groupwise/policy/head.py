"""Log-probabilities from hidden states, in chunks: the full logits never exist.

For a token with hidden state h, target y and temperature tau, with z = (h W' + b) / tau:

    logprob = z_y - logsumexp(z)              d logprob / dz = onehot(y) - p
    entropy = logsumexp(z) - sum_v p_v z_v    d entropy / dz = -p (log p + entropy)

Logits are float32 whatever the compute dtype: rounding them to bfloat16 is the largest part of the difference between
a rollout's log-probs and the learner's. Shapes: N tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from groupwise.kernels import gpu_ops
from groupwise.kernels import head as kernel
from groupwise.kernels.buffer import Buffer
from groupwise.kernels.panels import PanelCache
from groupwise.policy.backend import DeviceTraits, backend_of, matmul_float32
from groupwise.policy.fused_linear import apply_linear, can_pack, updated_in_place
from groupwise.policy.memory_pages import release_pages
from groupwise.torch_internals import reorder_linear_weight


@dataclass
class LMHead:
    """The output layer: logits = cap(scale * (h W' + b))."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    dtype: torch.dtype = torch.float32
    """Of the gradient's products; the logits are float32 always."""
    _weight_low: Tensor | None = field(default=None, repr=False)
    _weight32: Tensor | None = field(default=None, repr=False)
    _packed: Any = field(default=None, repr=False)
    _panels: PanelCache = field(default_factory=PanelCache, repr=False)

    @classmethod
    def from_model(cls, model: nn.Module, dtype: torch.dtype = torch.float32) -> LMHead:
        """The head of a causal language model, with the logit scaling of its config."""
        layer = model.get_output_embeddings()  # type: ignore[operator]
        if type(layer) is not nn.Linear:
            raise NotImplementedError(f"its output layer is a {type(layer).__name__}, not a plain linear layer")
        config = model.config.get_text_config()  # type: ignore[union-attr, operator]
        scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
            getattr(config, "logits_scaling", None) or 1.0
        )
        return cls(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None), dtype)

    @torch.no_grad()
    def refresh(self, *, pack: bool) -> None:
        """Read the current weights; `pack` reorders them for products with few rows."""
        if self._weight_low is None or self.weight_VD.requires_grad:
            self._weight_low = updated_in_place(self._weight_low, self.weight_VD.detach().to(self.dtype))
            self._weight32 = None if self.is_low else updated_in_place(self._weight32, self.weight_VD.detach().float())
            if self.has_kernel and self._weight_low.dtype != self.weight_VD.dtype:  # it is a copy
                release_pages(self.weight_VD)
            self._packed = None
        if self._weight32 is not None and pack and self._packed is None and can_pack(self._weight32):
            self._packed = reorder_linear_weight(self._weight32, 16)

    def borrow(self, other: LMHead) -> None:
        """Read the weights of another head of the same model in place of own copies."""
        self._weight_low, self._weight32, self._panels = other._weight_low, other._weight32, other._panels

    def tensors(self) -> list[Tensor]:
        """Tensors that `logits` reads."""
        return [t for t in (self._weight_low, self._weight32, self.bias_V) if t is not None]

    @property
    def has_kernel(self) -> bool:
        """Whether a kernel multiplies factors into float32 logits here; a trained weight stays float32."""
        if self.weight_VD.requires_grad or self._weight_low is None or not self.backend.has_kernels:
            return False
        return kernel.can_serve(self._weight_low)

    @property
    def has_softmax(self) -> bool:
        """Whether a kernel computes log-probs and entropies from logits here."""
        return self.has_kernel or (self.backend.has_layer_kernels and gpu_ops.has_triton(self.weight_VD.device))

    @property
    def is_low(self) -> bool:
        """Whether the float32 logits are sums over factors that are rounded to the compute dtype."""
        is_frozen = not self.weight_VD.requires_grad
        return self.has_kernel or (is_frozen and self._weight_low is not None and self.backend.has_low_precision_head)

    @property
    def backend(self) -> DeviceTraits:
        return backend_of(self.weight_VD.device)

    def factors(self, hidden_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states and weight as `logits` rounds them, in float32; differentiable."""
        if not self.is_low:
            return hidden_ND.float(), self.weight_VD.float()
        assert self._weight_low is not None
        return hidden_ND.to(self._weight_low.dtype).float(), self._weight_low.float()

    def backproject(self, coefficient_NV: Tensor) -> Tensor:
        """`coefficient W`, shape ND: the gradient for hidden states, float32."""
        weight = self.weight_VD.detach() if self._weight_low is None else self._weight_low
        if self.is_low and not self.has_kernel:
            return matmul_float32(coefficient_NV.to(weight.dtype), weight)
        return (coefficient_NV.to(weight.dtype) @ weight).float()

    def logits(self, hidden_ND: Tensor, buffer: Buffer | None = None) -> Tensor:
        """float32 logits NV, differentiable only through `token_logprobs`.

        A new tensor; with a `buffer` of the caller's, possibly its memory, which the next use of it overwrites.
        """
        bias = None if self.bias_V is None else self.bias_V.detach().float()
        if self.has_kernel:
            assert self._weight_low is not None
            return self.transform(kernel.logits(hidden_ND, self._weight_low, bias, self._panels, buffer))
        if self.is_low:
            assert self._weight_low is not None
            logits_NV = matmul_float32(hidden_ND.to(self._weight_low.dtype), self._weight_low.t())
            return self.transform(logits_NV if bias is None else logits_NV.add_(bias))
        weight = self.weight_VD.detach().float() if self._weight32 is None else self._weight32
        return self.transform(apply_linear(hidden_ND.float(), weight, bias, self._packed))

    def chunks(self, hidden_ND: Tensor, target_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Hidden states and targets of as many tokens as may have logits at a time."""
        rows = self.backend.head_rows
        return zip(hidden_ND.split(rows), target_N.split(rows), strict=True)

    def transform(self, logits_NV: Tensor) -> Tensor:
        if self.scale != 1.0:
            logits_NV = logits_NV * self.scale
        if self.softcap is not None:
            logits_NV = self.softcap * torch.tanh(logits_NV / self.softcap)
        return logits_NV


def token_logprobs(
    head: LMHead,
    hidden_ND: Tensor,
    target_N: Tensor,
    temperature: float = 1.0,
    adjust: Callable[[Tensor, int], Tensor] | None = None,
    *,
    entropy_gradient: bool = False,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """Log-prob and entropy (nats) of each token under softmax(logits / temperature), float32, shape N.

    `adjust(logits_NV, first_row)` changes the logits before the softmax (kept sets, repetition penalty); it and a soft
    cap take the slower path through autograd. The entropy carries a gradient only with `entropy_gradient`
    (for an entropy bonus), which costs one more product; without `with_entropy` it is left at 0. Temperature 0, greedy
    sampling, scores like 1.
    """
    temperature = temperature or 1.0
    if adjust is None and head.softcap is None and not with_entropy and not torch.is_grad_enabled():
        return _logprobs_only(head, hidden_ND, target_N, temperature)
    if adjust is None and head.softcap is None:
        bias = head.bias_V if head.bias_V is not None else hidden_ND.new_zeros(0)
        return _TokenLogprobs.apply(hidden_ND, head.weight_VD, bias, head, target_N, temperature, entropy_gradient)  # type: ignore[no-any-return, no-untyped-call]
    parts = []
    for start in range(0, len(target_N), head.backend.head_rows):
        stop = start + head.backend.head_rows
        chunk = (head, hidden_ND[start:stop], target_N[start:stop], temperature, adjust, start)
        parts.append(
            checkpoint(_adjusted_logprobs, *chunk, use_reentrant=False)
            if torch.is_grad_enabled()
            else _adjusted_logprobs(*chunk)
        )
    if not parts:
        return hidden_ND.new_zeros(0, dtype=torch.float32), hidden_ND.new_zeros(0, dtype=torch.float32)
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _logprobs_only(head: LMHead, hidden_ND: Tensor, target_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    parts, buffer = [], Buffer()
    for hidden, target in head.chunks(hidden_ND, target_N):
        z_NV = head.logits(hidden, buffer)
        if head.has_softmax:
            softmax: Callable[..., kernel.Softmax] = kernel.softmax if head.has_kernel else gpu_ops.softmax
            parts.append(softmax(z_NV, target, temperature, head.dtype, with_weights=False).logprob_N)
            continue
        z_NV = z_NV.div_(temperature)
        parts.append(z_NV.gather(1, target[:, None])[:, 0] - z_NV.logsumexp(-1))
    logprob_N = torch.cat(parts)
    return logprob_N, torch.zeros_like(logprob_N)


def _adjusted_logprobs(
    head: LMHead,
    hidden_ND: Tensor,
    target_N: Tensor,
    temperature: float,
    adjust: Callable[[Tensor, int], Tensor] | None,
    start: int,
) -> tuple[Tensor, Tensor]:
    bias = None if head.bias_V is None else head.bias_V.float()
    logits_NV = head.transform(apply_linear(*head.factors(hidden_ND), bias))
    logits_NV = logits_NV / temperature if adjust is None else adjust(logits_NV, start) / temperature
    log_p_NV = logits_NV.log_softmax(-1)
    entropy_N = -(log_p_NV.exp() * log_p_NV.masked_fill(log_p_NV == float("-inf"), 0.0)).sum(-1)
    return log_p_NV.gather(1, target_N[:, None])[:, 0], entropy_N


class _TokenLogprobs(torch.autograd.Function):
    """When only hidden states want a gradient, its direction is kept from the forward pass and the backward is one
    multiplication; otherwise the backward computes the chunks' logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        head: LMHead,
        target_N: Tensor,
        temperature: float,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.head, ctx.temperature = head, temperature
        keeps_direction = hidden_ND.requires_grad and not (weight_VD.requires_grad or bias_V.requires_grad)
        logprobs, entropies, directions = [], [], []
        buffers = (Buffer(), Buffer())
        for hidden, target in head.chunks(hidden_ND, target_N):
            chunk = _kernel_chunk if head.has_softmax and not entropy_gradient else _softmax_chunk
            arguments = (head, hidden, target, temperature, buffers, keeps_direction, entropy_gradient)
            logprob, entropy, kept = chunk(*arguments)
            logprobs.append(logprob)
            entropies.append(entropy)
            if keeps_direction:
                directions.append([d * (head.scale / temperature) for d in kept])
        ctx.save_for_backward(hidden_ND, target_N, *[torch.cat(d) for d in zip(*directions, strict=True)])
        logprob_N, entropy_N = torch.cat(logprobs), torch.cat(entropies)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy_N)
        return logprob_N, entropy_N

    @staticmethod
    def backward(ctx: Any, dlogprob_N: Tensor, dentropy_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, target_N, *directions = ctx.saved_tensors
        if not directions:
            return (*_recomputed_gradients(ctx, hidden_ND, target_N, dlogprob_N, dentropy_N), None, None, None, None)
        dhidden = dlogprob_N[:, None] * directions[0]
        if len(directions) == 2:
            dhidden = dhidden + dentropy_N[:, None] * directions[1]
        return dhidden.to(hidden_ND.dtype), None, None, None, None, None, None


def _softmax_chunk(
    head: LMHead,
    hidden_ND: Tensor,
    target_N: Tensor,
    temperature: float,
    buffers: tuple[Buffer, Buffer],
    keeps_direction: bool,
    entropy_gradient: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Log-probs, entropies and the directions of their gradients for hidden states."""
    z_NV = head.logits(hidden_ND, buffers[0]).div_(temperature)
    z_NV -= z_NV.amax(-1, keepdim=True)
    w_NV = z_NV.exp()  # p = w / total: one pass of exp serves log-prob, entropy and gradient
    total_N = w_NV.sum(-1)
    lse_N = total_N.log()
    logprob_N = z_NV.gather(1, target_N[:, None])[:, 0] - lse_N
    entropy_N = lse_N - torch.linalg.vecdot(w_NV, z_NV) / total_N
    if not keeps_direction:
        return logprob_N, entropy_N, []
    kept = [head.weight_VD.detach()[target_N].float() - head.backproject(w_NV) / total_N[:, None]]
    if entropy_gradient:  # sum_v p_v (log p_v + H) W_v, with log p = z - lse
        slope_NV = w_NV * (z_NV - lse_N[:, None] + entropy_N[:, None])
        kept.append(-head.backproject(slope_NV) / total_N[:, None])
    return logprob_N, entropy_N, kept


def _kernel_chunk(
    head: LMHead,
    hidden_ND: Tensor,
    target_N: Tensor,
    temperature: float,
    buffers: tuple[Buffer, Buffer],
    keeps_direction: bool,
    _: bool,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The same in two passes over the logits, without an entropy gradient."""
    z_NV = head.logits(hidden_ND, buffers[0])
    if head.has_kernel:
        found = kernel.softmax(z_NV, target_N, temperature, head.dtype, with_weights=keeps_direction, buffer=buffers[1])
    else:
        found = gpu_ops.softmax(z_NV, target_N, temperature, head.dtype, with_weights=keeps_direction)
    if found.weight_NV is None:
        return found.logprob_N, found.entropy_N, []
    direction = head.weight_VD.detach()[target_N].float() - head.backproject(found.weight_NV) / found.total_N[:, None]
    return found.logprob_N, found.entropy_N, [direction]


def _recomputed_gradients(
    ctx: Any, hidden_ND: Tensor, target_N: Tensor, dlogprob_N: Tensor, dentropy_N: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    head: LMHead = ctx.head
    weight_VD = head.weight_VD
    dhidden_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
    dweight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
    dbias_V = weight_VD.new_zeros(weight_VD.shape[0], dtype=torch.float32) if ctx.needs_input_grad[2] else None
    for start in range(0, len(target_N), head.backend.head_rows):
        rows = slice(start, start + head.backend.head_rows)
        logits_NV, gradients = head.logits(hidden_ND[rows]), (dlogprob_N[rows], dentropy_N[rows])
        dz_NV = _logit_gradients(head, logits_NV, target_N[rows], ctx.temperature, gradients)
        if dhidden_ND is not None:
            dhidden_ND[rows] = head.backproject(dz_NV).to(hidden_ND.dtype)
        if dweight_VD is not None:
            dweight_VD += dz_NV.to(head.dtype).t() @ hidden_ND[rows].to(head.dtype)
        if dbias_V is not None:
            dbias_V += dz_NV.sum(0, dtype=torch.float32)
    return dhidden_ND, None if dweight_VD is None else dweight_VD.to(weight_VD.dtype), dbias_V


def _logit_gradients(
    head: LMHead, logits_NV: Tensor, target_N: Tensor, temperature: float, gradients: tuple[Tensor, Tensor]
) -> Tensor:
    """Gradient for the output layer's products; `logits_NV` may be overwritten."""
    if head.has_softmax and not head.has_kernel:
        return gpu_ops.softmax_gradient(
            logits_NV, target_N, temperature, gradients, head.scale / temperature, head.dtype
        )
    dlogprob_N, dentropy_N = gradients
    log_p_NV: Tensor = logits_NV.div_(temperature).log_softmax(-1)
    p_NV = log_p_NV.exp()
    entropy_N = -torch.linalg.vecdot(p_NV, log_p_NV)
    dz_NV: Tensor = p_NV * -(dlogprob_N[:, None] + dentropy_N[:, None] * (log_p_NV + entropy_N[:, None]))
    dz_NV.scatter_add_(1, target_N[:, None], dlogprob_N[:, None])
    dz_NV *= head.scale / temperature
    return dz_NV
