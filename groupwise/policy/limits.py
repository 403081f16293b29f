"""What a model has room for: tokens of context, ids that it reads, ids that it can sample."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

_CONTEXT_NAMES = (
    "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "model_max_length",
)  # fmt: skip
"""What configurations call the context, the usual name first."""


def context_length(config: Any) -> int | None:
    """Tokens that a model with this configuration can attend to; None where it sets no bound.

    Models of several kinds of input keep the number in the part for text. A name counts only where the class of the
    configuration has it: files carry numbers of training that bound nothing.
    """
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    known = {*inspect.signature(type(text)).parameters, *getattr(text, "attribute_map", {})}
    lengths = (getattr(text, name, None) for name in _CONTEXT_NAMES if name in known)
    return next((length for length in lengths if isinstance(length, int) and length > 0), None)


def num_embeddings(model: nn.Module) -> int:
    """Rows of the input embedding: every id that the model reads is smaller."""
    return int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]


def num_logits(model: nn.Module) -> int:
    """Rows of the output head: every id that the model samples is smaller."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return num_embeddings(model) if head is None else int(getattr(head, "out_features", head.weight.shape[0]))
