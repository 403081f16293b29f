"""Deterministic passes: every module is in evaluation mode, checkpointed layers included.

transformers checkpoints a layer in training mode only, where dropout, layer dropping and router jitter act as well.
Here no module is in training mode: `recompute_layers` does the checkpointing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from groupwise.transformers_internals import is_checkpointing_layer, is_set_to_checkpoint


@contextmanager
def deterministic(model: nn.Module) -> Iterator[None]:
    """Inside, no module is in training mode, and layers that the model checkpoints are checkpointed all the same.

    Keep it open during the backward pass, which computes such layers again. The model is as before afterwards.
    """
    trained = [module for module in model.modules() if module.training]
    for module in trained:
        module.training = False
    undo = recompute_layers(model)
    try:
        yield
    finally:
        undo()
        _detach_states(model)
        for module in trained:
            module.training = True


def _detach_states(model: nn.Module) -> None:
    """Detach states that modules keep (as RecurrentGemma's do): their graph holds memory and forbids copies."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.grad_fn is not None:
                setattr(module, name, value.detach())


def recompute_layers(model: nn.Module) -> Callable[[], None]:
    """Let every layer that the model is set to checkpoint keep only its input for the backward pass, whatever its mode.

    Returns what undoes it.
    """
    layers = _layers_to_checkpoint(model)
    own = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = _checkpointed(layer.forward)

    def undo() -> None:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward

    return undo


def _layers_to_checkpoint(model: nn.Module) -> list[nn.Module]:
    """The layers under their own flag; in code that has none of these, those of the stacks that are flagged."""
    flagged = [module for module in model.modules() if is_set_to_checkpoint(module)]
    layers: list[nn.Module] = [module for module in flagged if is_checkpointing_layer(module)]
    if layers:
        return layers
    lists = [child for module in flagged for child in module.children() if isinstance(child, nn.ModuleList)]
    return list(dict.fromkeys(layer for layers in lists for layer in layers))


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **keywords: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **keywords)
        return checkpoint(forward, *args, use_reentrant=False, **keywords)

    return run
