"""The process: its device, number format and memory. Size 1 needs no process group."""

from __future__ import annotations

import os
import sys

import torch

from groupwise.errors import ConfigError
from groupwise.torch_internals import has_amx, has_avx512_bf16


def check_single_process() -> None:
    """Refuse to be one of several launched processes: each would train its own, unrelated model."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size > 1:
        raise ConfigError(
            f"Found WORLD_SIZE={size}: this process is one of several. groupwise trains in one process for now; "
            "start it without a launcher (python script.py, or groupwise train RECIPE)."
        )


def pick_device(*, use_cpu: bool = False) -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and not use_cpu else "cpu")


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The compute dtype. "auto" is bfloat16 where products in it are fast, else float32."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the machine multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and (has_avx512_bf16() or has_amx())


def peak_memory_bytes(device: torch.device) -> int | None:
    """Most memory used so far: of the GPU by tensors, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
