"""Plain Python values as JSON and back: nothing that carries code or a method of its own passes."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # takes a third of the time that a worker starts in


MAX_ITEMS = 100_000
"""Items taken from an iterator that is returned."""


class NotPlainError(Exception):
    """A value that has to stay where it is; `number` is where it is kept."""

    def __init__(self, number: int = -1) -> None:
        super().__init__(f"object {number}")
        self.number = number


def encoded(value: Any) -> Any:
    """The value as JSON; `NotPlainError` where it, or anything in it, is none of the types below."""
    if value is None or isinstance(value, bool | float):
        return value if value is None or isinstance(value, bool) else float(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else {"int": hex(value)}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encoded(key), encoded(item)] for key, item in value.items()]}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encoded(item) for item in value]}
    if isinstance(value, bytes | bytearray):
        return {type(value).__name__: bytes(value).hex()}
    if type(value).__name__ in ("complex", "Decimal", "Fraction"):
        return {type(value).__name__: str(value)}
    if isinstance(value, Iterator):
        return {"iterator": [encoded(item) for item in itertools.islice(value, MAX_ITEMS)]}
    raise NotPlainError


_READERS: dict[str, Any] = {
    "int": lambda text: int(text, 16),
    "dict": lambda pairs: {decoded(key): decoded(item) for key, item in pairs},
    "tuple": lambda items: tuple(map(decoded, items)),
    "set": lambda items: set(map(decoded, items)),
    "frozenset": lambda items: frozenset(map(decoded, items)),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": complex,
    "Decimal": lambda text: importlib.import_module("decimal").Decimal(text),
    "Fraction": lambda text: importlib.import_module("fractions").Fraction(text),
    "iterator": lambda items: iter(list(map(decoded, items))),
}


def decoded(value: Any) -> Any:
    """The value of JSON made by `encoded`; `ValueError` for anything else."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or (kind := next(iter(value))) not in _READERS:
        raise ValueError("not an encoded value")
    return _READERS[kind](value[kind])
