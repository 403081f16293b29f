"""A model cut to the fewest layers that include every kind: enough to compare two ways of computing it."""

from __future__ import annotations

from torch import nn

from groupwise.policy.adapter import base_of
from groupwise.policy.fused_model import share_copy
from groupwise.transformers_internals import LAYER_INDEX_NAMES

_AT_LEAST = 2


def truncate_layers(model: nn.Module) -> nn.Module:
    """A copy that shares the model's tensors, with its first layers up to the last new kind of them.

    Layers are of one kind when all their modules have the same classes, plain attributes and shapes. A model whose
    layers are not found, or are all different, keeps them all.
    """
    short = share_copy(model)
    base = base_of(short)
    config = base.config.get_text_config()
    number = getattr(config, "num_hidden_layers", None)
    layers = next((m for m in base.modules() if isinstance(m, nn.ModuleList) and len(m) == number), None)
    if layers is None:
        return short
    kinds = [_kind(layer) for layer in layers]
    count = max(_AT_LEAST, 1 + max(kinds.index(kind) for kind in kinds))
    del layers[count:]
    config.num_hidden_layers = len(layers)
    return short


def _kind(layer: nn.Module) -> tuple[object, ...]:
    return tuple((name, type(module), _plain(module), _shapes(module)) for name, module in layer.named_modules())


def _plain(module: nn.Module) -> tuple[tuple[str, object], ...]:
    values = {name: value for name, value in vars(module).items() if name not in LAYER_INDEX_NAMES}
    return tuple(sorted((n, v) for n, v in values.items() if isinstance(v, bool | int | float | str)))


def _shapes(module: nn.Module) -> tuple[tuple[str, object], ...]:
    return tuple((name, tensor.shape) for name, tensor in module.named_parameters(recurse=False))
