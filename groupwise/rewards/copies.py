"""Copies of the values of a row for reward functions, so that no call sees what another one changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

_ATOMS = frozenset({str, int, float, bool, type(None), bytes, complex, range, frozenset})
"""Types whose values cannot be changed; a frozenset holds nothing that can, as far as its hash is honest."""


Make = Callable[[], Any]


def copies(value: Any, num: int) -> list[Any]:
    """`num` values equal to this one that share nothing which can be changed.

    Texts and numbers are shared, containers copied, objects copied by `copy.deepcopy`. What cannot be copied (a lock,
    an open file, a module) is shared.
    """
    try:
        make = _maker(value, {})
    except (_SeenTwiceError, RecursionError):
        make = _by_deepcopy(value)
    return [value] * num if make is None else [make() for _ in range(num)]


def without_arrays(value: Any, above: tuple[int, ...] = ()) -> Any:
    """Tensors, arrays and their numbers as lists and numbers of Python, at any depth.

    `above`: the containers around the value; one that holds itself stays as it is.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    if not isinstance(value, dict | list | tuple) or id(value) in above:
        return value
    above = (*above, id(value))
    if isinstance(value, dict):
        return {key: without_arrays(item, above) for key, item in value.items()}
    return [without_arrays(item, above) for item in value]


class _SeenTwiceError(Exception):
    """A container occurs twice in a value, or inside itself."""


def _maker(value: Any, is_shared: dict[int, bool]) -> Make | None:
    """The maker of a copy, or None where the value can be shared: looked through once, for all copies.

    `is_shared`: the containers that were seen already, by their identity, and whether they can be shared.
    """
    kind = type(value)
    if kind in _ATOMS or is_shared.get(id(value)):
        return None
    if kind not in (list, dict, tuple, set):
        return _by_deepcopy(value)
    if id(value) in is_shared:
        raise _SeenTwiceError
    is_shared[id(value)] = False
    places = [] if kind is set else value.items() if kind is dict else enumerate(value)
    inside = [(place, make) for place, item in places if (make := _maker(item, is_shared)) is not None]
    if kind is tuple:
        is_shared[id(value)] = not inside
        return (lambda: tuple(_filled(list(value), inside))) if inside else None
    return (lambda: _filled(value.copy(), inside)) if inside else value.copy


def _filled(container: Any, inside: list[tuple[Any, Make]]) -> Any:
    for place, make in inside:
        container[place] = make()
    return container


def _by_deepcopy(value: Any) -> Make | None:
    try:
        if copy.deepcopy(value) is value:
            return None
    except Exception:  # the objects' own code; what cannot be copied is shared
        return None
    return lambda: copy.deepcopy(value)
