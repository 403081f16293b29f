"""Quantized bases (bitsandbytes, torchao, ...): frozen 4-bit and 8-bit weights under an adapter, on the slow path."""

from __future__ import annotations

import logging

from torch import nn

from groupwise.errors import ModelError
from groupwise.transformers_internals import quantization_method


def quantization_of(model: nn.Module) -> str | None:
    """The library that holds the model's weights quantized ("bitsandbytes", "torchao"); None for plain weights."""
    return next(filter(None, map(quantization_method, model.modules())), None)


def require_adapter_on_quantized(model: nn.Module, *, has_adapter: bool) -> None:
    """Raise `ModelError` for quantized weights without an adapter: they have no gradient, and the rest would train."""
    method = quantization_of(model)
    if method == "bitsandbytes":
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_ONCE_EACH)
    if method is not None and not has_adapter:
        raise ModelError(
            f"The model's weights are quantized ({method}), and quantized weights cannot be trained themselves. Give a "
            "peft_config (in a recipe: lora) to train an adapter on them, or load the model without quantization."
        )


def about_outliers(model: nn.Module) -> str:
    """What makes the log-probs of bitsandbytes' 8-bit layers depend on other rows, and the way out; else empty."""
    if not any(type(module).__name__ == "Linear8bitLt" for module in model.modules()):
        return ""
    return (
        " The 8-bit layers of bitsandbytes pick columns by the activations of the whole batch: load the model with "
        "BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0), or with torchao's Int8WeightOnlyConfig."
    )


class _OnceEach(logging.Filter):
    """Lets a message pass the first time: the 8-bit layers of bitsandbytes repeat theirs at every product."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        is_new = record.getMessage() not in self._seen
        self._seen.add(record.getMessage())
        return is_new


_ONCE_EACH = _OnceEach()
"""One for the process: a logger takes the same filter once."""
