"""Compiled kernels for the CPU: built once by the machine's own compiler, and left out where there is none."""

from __future__ import annotations

from .build import compiled, why_none

__all__ = ["compiled", "why_none"]
