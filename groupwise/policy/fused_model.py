"""A structural copy of the user's model that shares its tensors and runs the fast passes of learner and engine.

The user's own object is never touched: the copy has its own config (our attention), its linear layers are replaced by
`FusedLinear`s that read the user's parameters, and it is always in evaluation mode. Gradients land in the user's
parameters because they are the same tensors. Learner and engine both run this one model, so what they compute differs
by rounding only.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from groupwise import kernels
from groupwise.policy.adapter import base_of
from groupwise.policy.attention import AttentionPlan, install
from groupwise.policy.backend import backend_of
from groupwise.policy.decoder_layer import (
    DecodeAttention,
    LayerProbe,
    install_kernels,
    only_first_layer,
    prepare_decoding,
)
from groupwise.policy.deterministic import recompute_layers
from groupwise.policy.fused_linear import FusedLinear, FusedLinearSlice, read_source
from groupwise.policy.gpu_layer import install_gpu_layers
from groupwise.policy.head import LMHead
from groupwise.policy.load_model import checkpoint_layers
from groupwise.transformers_internals import SIBLING_LINEARS, decoder_layers


class FusedModel:
    """See the module docstring. Raises NotImplementedError with a reason for a model that cannot be fused."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, *, gradient_checkpointing: bool = False) -> None:
        self.source = model
        """The user's model."""
        self.dtype = dtype
        self.model = share_copy(base_of(model))
        self.head = LMHead.from_model(self.model, dtype)
        self.linears = _replace_linears(self.model, dtype, skip=self.model.get_output_embeddings())  # type: ignore[operator]
        self._context = install(self.model)
        self.backbone: nn.Module = self.model.base_model  # type: ignore[assignment]
        self.model.eval()
        if gradient_checkpointing:
            checkpoint_layers(self.model)
            recompute_layers(self.model)
        self.device = self.head.weight_VD.device
        self.backend = backend_of(self.device)
        self.kernel_layers = install_kernels(self.model, self._context, dtype) if self.backend.has_kernels else []
        self._decodes_at_once = False
        """Whether the first layer's call computes all layers of a decode step."""
        is_float32 = dtype == torch.float32
        if self.backend.is_residual_float32 and not is_float32:
            is_float32 = self._keep_stream_in_float32()
        self.gpu_layers = []
        """Decoder layers that run as a few large kernels."""
        if self.backend.has_layer_kernels and is_float32:
            self.gpu_layers = install_gpu_layers(self.model, self._context)

    def _keep_stream_in_float32(self) -> bool:
        """Keep the residual stream in float32 under weights of lower precision; whether the layers' code allows it.

        Half of the difference between a rollout's log-probs and the learner's comes from rounding this sum.
        """
        embedding: nn.Module = self.model.get_input_embeddings()  # type: ignore[operator]
        hook = embedding.register_forward_hook(lambda module, inputs, output: output.float())
        ids_P = torch.arange(4, device=self.device)
        try:
            with torch.no_grad():
                self.hidden(ids_P, ids_P, LayerProbe())
        except RuntimeError:  # parameters beside the linear layers, in the weights' dtype, that do not mix with float32
            hook.remove()
            return False
        return True

    def refresh(self, *, pack: bool = False) -> None:
        """Read the user's current weights; `pack` prepares products with few rows (decoding)."""
        for linear in self.linears:
            linear.refresh()
        self.head.refresh(pack=pack)
        if pack:
            self._prepare_decoding()

    def tensors(self) -> list[Tensor]:
        """Everything that a pass reads besides its input: a refresh changes their values, not their memory."""
        found = [*self.model.parameters(), *self.model.buffers(), *self.head.tensors()]
        return found + [tensor for linear in self.linears for tensor in linear.tensors()]

    @property
    def kernel_dtype(self) -> torch.dtype | None:
        """Of the factors of the kernels that decode; None where none do."""
        return self.dtype if self.kernel_layers else None

    @property
    def why_no_kernels(self) -> str | None:
        """Why no decoder layer runs on kernels; None when some do, or the device has none."""
        if self.kernel_layers or not self.backend.has_kernels:
            return None
        return kernels.why_unavailable(self.dtype) or "no layer of this model is of a kind that they compute"

    def drop_kernels(self) -> None:
        """Let every layer run its original code, in decoding too."""
        for layer in self.kernel_layers:
            layer.remove()
        self.kernel_layers, self._decodes_at_once = [], False

    def _prepare_decoding(self) -> None:
        if self.kernel_layers:
            self._decodes_at_once = prepare_decoding(self.kernel_layers, len(decoder_layers(self.backbone)))
        else:
            for linear in self.linears:
                linear.pack()

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """Inside, the model is the base without its adapters."""
        for linear in self.linears:
            linear.adapters_enabled = False
        try:
            yield
        finally:
            for linear in self.linears:
                linear.adapters_enabled = True

    def hidden(self, input_ids_P: Tensor, position_ids_P: Tensor, plan: AttentionPlan) -> Tensor:
        """Hidden states PD after the final norm, for packed tokens that attend by `plan`.

        Hold `using(plan)` open around the backward pass too when layers are checkpointed.
        """
        at_once = self._decodes_at_once and isinstance(plan, DecodeAttention) and self.linears[0].adapters_enabled
        with self._context.use(plan), only_first_layer(decoder_layers(self.backbone)) if at_once else nullcontext():
            output: Any = self.backbone(
                input_ids=input_ids_P[None], position_ids=position_ids_P[None], use_cache=False, attention_mask=None
            )
        return output.last_hidden_state[0]  # type: ignore[no-any-return]

    def using(self, plan: AttentionPlan) -> Any:
        """Context in which attention follows `plan`."""
        return self._context.use(plan)


def share_copy(model: nn.Module) -> nn.Module:
    """A deep copy of the modules and the config that shares every parameter and buffer with the original."""
    memo: dict[int, Any] = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, memo)


def _replace_linears(model: nn.Module, dtype: torch.dtype, skip: nn.Module) -> list[FusedLinear]:
    linears: list[FusedLinear] = []
    for parent in list(_parents(model)):
        names = [name for name, child in parent.named_children() if child is not skip and _is_linear(child)]
        for siblings in _sibling_sets(parent, names):
            sources = []
            for name in siblings:
                source = read_source(getattr(parent, name))
                if isinstance(source, str):
                    raise NotImplementedError(f"{name}: {source}")
                sources.append(source)
            linear = FusedLinear(sources, dtype, seed=len(linears) * 8)
            linears.append(linear)
            for part, name in enumerate(siblings):
                setattr(parent, name, FusedLinearSlice(linear, part))
    for module in model.modules():
        if hasattr(module, "base_layer") or hasattr(module, "modules_to_save"):
            raise NotImplementedError(f"its adapter also covers a {type(module).__name__}")
    return linears


def _parents(module: nn.Module) -> Iterator[nn.Module]:
    """Modules that may have linear layers as children; children of a LoRA layer are part of that layer."""
    if not _is_linear(module):
        yield module
        for child in module.children():
            yield from _parents(child)


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear or (hasattr(module, "base_layer") and hasattr(module, "lora_A"))


def _sibling_sets(parent: nn.Module, names: list[str]) -> list[tuple[str, ...]]:
    sets: list[tuple[str, ...]] = []
    left = list(names)
    for siblings in SIBLING_LINEARS:
        if all(name in left for name in siblings):
            widths = {getattr(parent, name).in_features for name in siblings}
            if len(widths) == 1:
                sets.append(siblings)
                left = [name for name in left if name not in siblings]
    return sets + [(name,) for name in left]
