"""Everything that the package uses of transformers' private names and module layout: one function or table a symbol.

A docstring begins with the symbol. tests/policy/test_internals.py fails, naming this file, when transformers drops one.
transformers is imported only inside functions, so that importing this module is cheap.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SIBLING_LINEARS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""`q_proj`, `k_proj`, `v_proj`, `gate_proj`, `up_proj`: layers of one parent that read the same input."""
_DECODER_CHILDREN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


@dataclass(frozen=True)
class DecoderModules:
    """Modules of a decoder layer of the Llama family."""

    qkv: tuple[Any, Any, Any]
    o: Any
    gate_up: tuple[Any, Any]
    down: Any
    norm_in: Any
    norm_post: Any
    norm_q: Any | None
    norm_k: Any | None
    eps: float
    """Of the norms."""


def decoder_modules(layer: Any) -> DecoderModules:
    """`self_attn`, `mlp`, `input_layernorm`, `post_attention_layernorm`, `variance_epsilon`: the layer's modules.

    Raises AttributeError for a layer of another make.
    """
    attn, mlp, norm_in = layer.self_attn, layer.mlp, layer.input_layernorm
    return DecoderModules(
        qkv=(attn.q_proj, attn.k_proj, attn.v_proj),
        o=attn.o_proj,
        gate_up=(mlp.gate_proj, mlp.up_proj),
        down=mlp.down_proj,
        norm_in=norm_in,
        norm_post=layer.post_attention_layernorm,
        norm_q=getattr(attn, "q_norm", None),
        norm_k=getattr(attn, "k_norm", None),
        eps=float(norm_in.variance_epsilon),
    )


def is_decoder_layer(module: Any) -> bool:
    """`self_attn`, `mlp`, `input_layernorm`, `post_attention_layernorm`: whether these are the module's children."""
    return {name for name, _ in module.named_children()} == _DECODER_CHILDREN


def decoder_layers(backbone: Any) -> Any:
    """`layers`: the decoder layers of a model without its head; empty where they have another name."""
    return getattr(backbone, "layers", ())


def rotary_embedding(model: Any) -> Any | None:
    """`base_model.rotary_emb`: the module that makes cosines and sines of positions; None where there is none."""
    return getattr(getattr(model, "base_model", None), "rotary_emb", None)


def position_embeddings(keywords: Mapping[str, Any]) -> tuple[Any, Any]:
    """`position_embeddings`: cosines and sines [1, T, rotary] among the keywords of a decoder layer's `forward`."""
    cos, sin = keywords["position_embeddings"]
    return cos, sin


def call_decoder_layer(layer: Any, x_1TI: Any, positions_1T: Any, cos_sin: tuple[Any, Any]) -> Any:
    """`forward(x, attention_mask, position_ids, position_embeddings)`: the output [1, T, I] of a decoder layer."""
    return layer(x_1TI, attention_mask=None, position_ids=positions_1T, position_embeddings=cos_sin)


def layer_index(attention: Any) -> int:
    """`layer_idx`: the number of the layer that an attention module belongs to."""
    return int(attention.layer_idx)


LAYER_INDEX_NAMES = frozenset({"layer_idx"})
"""`layer_idx`: attributes in which layers of one kind differ."""


def set_attention(config: Any, name: str) -> None:
    """`_attn_implementation`: let models of this configuration call the registered attention function `name`."""
    if hasattr(config, "_attn_implementation"):
        config._attn_implementation = name


def is_checkpointing_layer(module: Any) -> bool:
    """`modeling_layers.GradientCheckpointingLayer`: whether the module checkpoints itself in training mode."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return isinstance(module, GradientCheckpointingLayer)


def is_set_to_checkpoint(module: Any) -> bool:
    """`gradient_checkpointing`: whether the model was told to checkpoint this module or its layers."""
    return bool(getattr(module, "gradient_checkpointing", False))


def rescale_interval(module: Any) -> int:
    """`layers_are_rescaled`, `rescale_every`, `blocks`: layers between which RWKV halves weights in place; 0: never."""
    every = int(getattr(getattr(module, "config", None), "rescale_every", 0) or 0)
    return every if hasattr(module, "layers_are_rescaled") and 0 < every < len(module.blocks) else 0


def has_causal_class(config: type) -> bool:
    """`AutoModelForCausalLM._model_mapping`: whether a class of that configuration is a model of text alone."""
    from transformers import AutoModelForCausalLM

    return config in AutoModelForCausalLM._model_mapping


def quantization_method(model: Any) -> str | None:
    """`hf_quantizer`: the library that holds the weights of this module quantized; None for plain weights."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return None
    method = quantizer.quantization_config.quant_method
    return str(getattr(method, "value", method))


def forget_quantization(model: Any) -> None:
    """`hf_quantizer`, `is_quantized`, `quantization_method`, `quantization_config`, `_model_name_or_path`: removed.

    With them, `save_pretrained` refuses a model whose weights are plain numbers now.
    """
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        vars(model).pop(name, None)
    for name in ("quantization_config", "_model_name_or_path"):
        vars(model.config).pop(name, None)


@contextmanager
def without_gguf_bars() -> Iterator[None]:
    """`modeling_gguf_pytorch_utils.tqdm`: inside, converting a .gguf file draws no progress bar."""
    from transformers import modeling_gguf_pytorch_utils as gguf

    drawn_by_gguf = gguf.tqdm
    gguf.tqdm = functools.partial(drawn_by_gguf, disable=True)
    try:
        yield
    finally:
        gguf.tqdm = drawn_by_gguf
