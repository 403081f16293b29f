"""State as tensors and JSON: nested dicts, lists and tuples of tensors and plain values, split and put together."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

Plain = Any
"""What JSON holds. A container is an object of one key that names its kind; a tensor is named by its place."""


def split(value: Any, tensors: dict[str, Tensor], place: str = "") -> Plain:
    """The plain part of `value`; its tensors go into `tensors` under the names of their places.

    Raises:
        TypeError: something is neither a plain tensor nor a plain value.
    """
    if type(value) in (Tensor, nn.Parameter, DTensor):  # another subclass carries more than its numbers
        tensors[place] = value.detach()
        return {"tensor": place}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in (list, tuple):
        return {type(value).__name__: [split(v, tensors, f"{place}[{i}]") for i, v in enumerate(value)]}
    if isinstance(value, dict) and all(type(key) in (int, str) for key in value):
        pairs = [
            [k, split(v, tensors, f"{place}.{k}" if type(k) is str else f"{place}.#{k}")] for k, v in value.items()
        ]
        return {"dict": pairs}
    raise TypeError(f"{place.lstrip('.')} is a {type(value).__module__}.{type(value).__qualname__}")


def join(plain: Plain, tensors: dict[str, Tensor]) -> Any:
    """What `split` took apart."""
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: join(value, tensors) for key, value in content}
    values = [join(value, tensors) for value in content]
    return tuple(values) if kind == "tuple" else values
