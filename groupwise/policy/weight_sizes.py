"""How many numbers a model holds, by what becomes of them: counted from its modules, with or without weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from groupwise.policy.adapter import base_of
from groupwise.policy.bounds import context_length
from groupwise.transformers_internals import SIBLING_LINEARS, decoder_layers


@dataclass(frozen=True)
class WeightSizes:
    """Counts of numbers, `_bytes` of bytes."""

    total: int
    trained: int
    stored_bytes: int
    """Of all weights in the dtypes they are held in."""
    linear: int
    """In the linear layers outside of the head, without adapters."""
    linear_bytes: int
    """The same as they are held."""
    sibling: int
    """Of these in layers that are computed as one product with others."""
    biases: int
    adapter_products: int
    """Of the adapters' factors as the products read them: B of siblings is block-diagonal."""
    head: int
    """Of the output layer, whether or not it shares them with the embedding."""
    head_bytes: int
    is_head_trained: bool
    largest_layer: int
    """Trained numbers of the largest decoder layer."""
    outside_layers: int
    """Trained numbers outside of the decoder layers: embedding, final norm, head."""
    num_layers: int
    width: int
    ffn_width: int
    vocabulary: int
    kv_width: int
    """Of keys (and of values) of one token in one layer."""
    query_width: int
    context: int | None

    @classmethod
    def of(cls, model: nn.Module) -> WeightSizes:
        """Count a causal language model; its parameters may lie on the device `meta`."""
        base: Any = base_of(model)
        head, config = base.get_output_embeddings(), base.config.get_text_config()
        linears = [m for m in _layers(base) if m is not head]
        layers = [_trained(layer.parameters()) for layer in decoder_layers(base.base_model)]
        parameters = list(model.parameters())
        width, heads = head.weight.shape[1], _setting(config, "num_attention_heads", 1)
        head_width = _setting(config, "head_dim", width // heads)
        return cls(
            total=_numbers(parameters),
            trained=_trained(parameters),
            stored_bytes=_bytes(parameters),
            linear=_numbers(_weights(linears)),
            linear_bytes=_bytes(_weights(linears)),
            sibling=sum(_numbers(_weights(each)) for each in _sibling_layers(base)),
            biases=_numbers(b for m in linears if (b := getattr(_inner(m), "bias", None)) is not None),
            adapter_products=_adapter_products(base, linears),
            head=head.weight.numel(),
            head_bytes=_bytes([head.weight]),
            is_head_trained=head.weight.requires_grad,
            largest_layer=max(layers, default=0),
            outside_layers=_trained(parameters) - sum(layers),
            num_layers=_setting(config, "num_hidden_layers", len(layers)),
            width=width,
            ffn_width=_setting(config, "intermediate_size", 4 * width),
            vocabulary=head.weight.shape[0],
            kv_width=_setting(config, "num_key_value_heads", heads) * head_width,
            query_width=heads * head_width,
            context=context_length(base.config),
        )


def _setting(config: Any, name: str, default: int) -> int:
    """A number of the configuration; the largest where each layer has its own."""
    value = getattr(config, name, None) or default
    return max(value) if isinstance(value, list | tuple) else int(value)


def _layers(base: nn.Module) -> list[Any]:
    """The linear layers, those under an adapter once; an adapted embedding is looked up and multiplies nothing."""
    adapted = [m for m in base.modules() if hasattr(m, "base_layer") and hasattr(m, "lora_A")]
    wrapped = [m for m in adapted if not isinstance(m.base_layer, nn.Embedding)]
    inside = {id(part) for m in wrapped for part in m.modules() if part is not m}
    return [*wrapped, *(m for m in base.modules() if type(m) is nn.Linear and id(m) not in inside)]


def _inner(layer: Any) -> Any:
    return getattr(layer, "base_layer", layer)


def _weights(layers: Iterable[Any]) -> list[Tensor]:
    return [_inner(layer).weight for layer in layers]


def _sibling_layers(base: nn.Module) -> list[list[Any]]:
    """Linear layers that are computed as one product, of each set all."""
    found = []
    for parent in base.modules():
        children = dict(parent.named_children())
        for names in SIBLING_LINEARS:
            layers = [children[name] for name in names if name in children]
            if len(layers) == len(names) and all(hasattr(_inner(layer), "in_features") for layer in layers):
                found.append(layers)
    return found


def _adapter_products(base: nn.Module, linears: Iterable[Any]) -> int:
    sets = _sibling_layers(base)
    together = {id(layer) for layers in sets for layer in layers}
    total = 0
    for layers in [*sets, *([layer] for layer in linears if id(layer) not in together)]:
        a = [p for layer in layers for p in getattr(layer, "lora_A", nn.Module()).parameters()]
        rank, rows = sum(p.shape[0] for p in a), sum(_inner(layer).weight.shape[0] for layer in layers)
        total += _numbers(a) + rank * rows
    return total


def _numbers(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def _trained(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() for t in tensors if t.requires_grad)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
