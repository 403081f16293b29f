"""Frees resident pages of weights that are mapped from a file (madvise), once their compute copy exists."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

_PAGEOUT = 21
"""`MADV_PAGEOUT` of Linux: take these pages out of memory. What is not on disk stays, so nothing is ever lost."""


def release_pages(tensor: Tensor) -> None:
    """Give the tensor's memory back until it is read again, where it can be read from its file; else do nothing."""
    advise = _madvise()
    if advise is None or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _PAGEOUT)


@functools.cache
def _madvise() -> Callable[..., Any] | None:
    if sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.CDLL("libc.so.6", use_errno=True).madvise
    return None
