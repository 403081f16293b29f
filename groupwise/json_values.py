"""Any Python value as JSON: for the record of a run and for fingerprints of data sets."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_DEPTH = 100
"""Containers inside each other; JSON's readers have bounds of their own."""

MAX_BITS = 10_000
"""Longer integers are written in hexadecimal: Python refuses to print them in decimal."""

LEFT_OUT = "..."
"""Stands for a container that holds itself, or lies too deep."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def plain_value(value: Any, not_finite: dict[str, str], path: str = "", above: tuple[int, ...] = ()) -> Any:
    """`value` in JSON's own types; the same in every process. What JSON lacks becomes text, and never an error.

    NaN and infinities become None and are noted in `not_finite` under their path. `above`: the containers that the
    value stands in.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= MAX_BITS else hex(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        not_finite[path] = str(value)
        return None
    if id(value) in above or len(above) >= MAX_DEPTH:
        return LEFT_OUT
    try:
        return _inside(value, not_finite, path, (*above, id(value)))
    except Exception:  # the object's own code
        return _text(value)


def as_text(value: Any) -> str:
    """`value` as one line that is the same for equal values, in every process."""
    not_finite: dict[str, str] = {}
    text = json.dumps(plain_value(value, not_finite), sort_keys=True)
    return text + (json.dumps(not_finite, sort_keys=True) if not_finite else "")


def _inside(value: Any, not_finite: dict[str, str], path: str, above: tuple[int, ...]) -> Any:
    """The same for what holds others, and for objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        items = ((_key(key), item) for key, item in value.items())
        return {k: plain_value(item, not_finite, f"{path}.{k}" if path else k, above) for k, item in items}
    if isinstance(value, set | frozenset):
        return sorted((plain_value(item, not_finite, path, above) for item in value), key=json.dumps)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        if all(type(item) is int for item in value):  # token ids: many, and hardly ever too long
            return [item if item.bit_length() <= MAX_BITS else hex(item) for item in value]
        return [plain_value(item, not_finite, f"{path}[{i}]", above) for i, item in enumerate(value)]
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays, without importing either
        return plain_value(value.tolist(), not_finite, path, above)
    return _text(value)


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    plain = plain_value(key, {})
    return plain if isinstance(plain, str) else _text(key) if plain is None else str(plain)


def _text(value: Any) -> str:
    """An object as it prints itself, without its address in memory."""
    try:
        return _ADDRESS.sub("", str(value))
    except Exception:  # the object's own code
        return f"<{type(value).__name__}>"
