"""Rewards as floats: which of them count as equal (0.1 + 0.2 and 0.3 do), and how large one may be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

RELATIVE = 1e-6
"""Of the larger of two numbers."""
ABSOLUTE = 1e-8
LARGEST = 1e15
"""The largest reward, in size. float64 resolves it to less than 1, and the squares of advantages
and gradients of that size stay far from the end of float32."""


def is_equal(a: Any, b: Any) -> Any:
    """Whether two finite numbers differ by rounding alone; elementwise for tensors."""
    gap = abs(a - b)
    return (gap <= ABSOLUTE) | (gap <= RELATIVE * abs(a)) | (gap <= RELATIVE * abs(b))


def reaches(value: float, threshold: float) -> bool:
    """Whether a number is at least the threshold, up to rounding."""
    return bool(value >= threshold or is_equal(value, threshold))


def differ(values: Iterable[float | None]) -> bool:
    """Whether at least two values are scored (not None) and they are not all equal."""
    scored = [value for value in values if value is not None]
    return len(scored) >= 2 and not is_equal(max(scored), min(scored))
