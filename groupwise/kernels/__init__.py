"""Compiled kernels for the CPU: built once by the machine's own compiler, and left out where there is none.

They multiply bfloat16 factors on processors with AVX512-BF16, float32 ones on processors with AVX2.
"""

from __future__ import annotations

from groupwise.kernels.build import compiled, why_unavailable

__all__ = ["compiled", "why_unavailable"]
