"""Limits of a model: tokens of context, ids that it reads, ids that it can sample."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

_CONTEXT_NAMES = (
    "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "model_max_length",
)  # fmt: skip
"""Names of the context length in configurations, the usual one first."""


def context_length(config: Any) -> int | None:
    """Tokens that a model with this configuration can attend to; None where it sets no bound.

    Models of several kinds of input keep the number in the part for text. A name counts only where the class of the
    configuration has it: files carry numbers of training that bound nothing.
    """
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    known = {*inspect.signature(type(text)).parameters, *getattr(text, "attribute_map", {})}
    lengths = (getattr(text, name, None) for name in _CONTEXT_NAMES if name in known)
    return next((length for length in lengths if isinstance(length, int) and length > 0), None)


def rotation_bound(config: Any) -> tuple[str, int] | None:
    """Name of a rotation that is another one for longer sequences, and the length up to which it is the first; or None.

    longrope changes at `original_max_position_embeddings`, dynamic grows beyond `max_position_embeddings`. A sequence
    that crosses the bound while it grows is sampled under the first rotation and scored under the second.
    """
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    written = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kinds = [written, *(value for value in written.values() if isinstance(value, dict))]  # one a type of layer
    found = [(kind, bound) for each in kinds if (kind := _rotation(each)) and (bound := _bound_of(kind, each, text))]
    return min(found, key=lambda pair: pair[1], default=None)


def _rotation(written: Mapping[str, Any]) -> str | None:
    kind = str(written.get("rope_type", written.get("type", "")))
    return kind if kind in ("longrope", "su") or "dynamic" in kind else None


def _bound_of(kind: str, written: Mapping[str, Any], config: Any) -> int | None:
    original = written.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    return context_length(config) if "dynamic" in kind else original


def num_embeddings(model: nn.Module) -> int:
    """Rows of the input embedding: every id that the model reads is smaller."""
    return int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]


def num_logits(model: nn.Module) -> int:
    """Rows of the output head: every id that the model samples is smaller."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return num_embeddings(model) if head is None else int(getattr(head, "out_features", head.weight.shape[0]))
