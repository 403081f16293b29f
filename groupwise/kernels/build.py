"""Compiles the kernels for this processor, once, into the user's cache, and loads them.

Everything works without them, only slower; `why_unavailable` names what is missing.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from groupwise.errors import ModelError
from groupwise.kernels.structs import layout_difference
from groupwise.sources import default_cache_dir
from groupwise.torch_internals import has_onednn_bf16, openmp_library

_HERE = Path(__file__).parent
SOURCES = tuple(sorted(_HERE.glob("*.cpp")))
HEADERS = tuple(sorted(_HERE.glob("*.h")))
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-w")
FLAGS_OF = {torch.bfloat16: ("-DBF16_FACTORS",), torch.float32: ()}
"""By the dtype of the factors."""
COMPILE_TIMEOUT_S = 120
SWITCH = "GROUPWISE_KERNELS"
"""Environment variable; `0` leaves the kernels out, `no-amx` builds them without AMX."""


def compiled(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernels that multiply factors of this dtype, or None."""
    found = _loaded(dtype)
    return None if isinstance(found, str) else found


def why_unavailable(dtype: torch.dtype) -> str | None:
    """Why there are no kernels for this dtype; None when there are."""
    found = _loaded(dtype)
    return found if isinstance(found, str) else None


@functools.cache
def _loaded(dtype: torch.dtype) -> ctypes.CDLL | str:
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "they are written for Linux on x86"
    if dtype == torch.bfloat16 and not _has_bf16_products():
        return "this processor has no AVX512-BF16"
    if dtype not in FLAGS_OF or not {"avx2", "fma"} <= set(_processor().split()):
        return "this processor has no AVX2"
    compiler = shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")
    openmp = openmp_library()
    if compiler is None:
        return "there is no C++ compiler (install g++)"
    if not openmp.is_file():
        return "this build of torch brings no OpenMP library to share"
    try:
        library = ctypes.CDLL(str(_build(compiler, openmp, (*FLAGS, *FLAGS_OF[dtype], *_switched_off()))))
    except (OSError, subprocess.SubprocessError, ModelError) as error:  # the last: there is no folder to keep them in
        return f"compiling them failed ({_first_line(error)})"
    return layout_difference(library) or library


def _switched_off() -> tuple[str, ...]:
    return ("-mno-amx-tile", "-mno-amx-bf16") if os.environ.get(SWITCH) == "no-amx" else ()


def _has_bf16_products() -> bool:
    return has_onednn_bf16() and "avx512_bf16" in _processor()


@functools.cache
def _processor() -> str:
    """Model and abilities of the processor: what `-march=native` compiles for."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags")))


def _build(compiler: str, openmp: Path, flags: tuple[str, ...]) -> Path:
    """The shared library in the cache; it exists whole or not at all."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    key = hashlib.sha256("\0".join([version, _processor(), str(flags), str(openmp)]).encode())
    for source in (*SOURCES, *HEADERS):
        key.update(source.read_bytes())
    target = default_cache_dir() / "kernels" / f"{key.hexdigest()[:16]}.so"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        built = Path(scratch) / "kernels.so"
        objects = []
        for source in SOURCES:
            objects.append(str(Path(scratch) / f"{source.stem}.o"))
            _run([compiler, *flags, "-c", str(source), "-o", objects[-1]])
        # torch's own OpenMP, so that both use one set of threads instead of fighting for the cores.
        _run([compiler, "-shared", *objects, str(openmp), "-o", str(built)])
        built.replace(target)
    return target


def _run(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=True)


def _first_line(error: Exception) -> str:
    output = getattr(error, "stderr", None) or str(error)
    return str(output).strip().split("\n")[0][:200]
