"""What every script of bench/ shares: where things are, what machine this is, medians, result files.

Standard library only, because the peers' environments import it too.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
RESULTS = BENCH / "results"
SCRATCH = BENCH / ".work"
"""Run folders and job files; git-ignored."""

PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "numpy")


def measure_this_checkout() -> None:
    """Import groupwise from the checkout that this file stands in, installed or not."""
    sys.path.insert(0, str(ROOT))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Smallest, median and largest value, and how many there are."""
    return {"min": min(values), "median": median(values), "max": max(values), "count": len(values)}


def status_bytes(key: str) -> int:
    """A size of this process from the kernel: "VmRSS" is now, "VmHWM" the most so far. Linux only, 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def versions() -> dict[str, str]:
    """Python and the packages that matter for speed, as this interpreter sees them."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What was measured on, and how busy it was when the measuring began."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else (0.0, 0.0, 0.0)
    return {
        "platform": platform.platform(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _kilobytes(_field("/proc/meminfo", "MemTotal")),
        "has_avx512_bf16": "avx512_bf16" in (_field("/proc/cpuinfo", "flags") or "").split(),
        "load_before": [round(x, 2) for x in load],
    }


def fast_dtype() -> str:
    """The dtype of weights that this processor multiplies by fastest: without AVX512-BF16, bfloat16 is emulated."""
    return "bfloat16" if machine()["has_avx512_bf16"] else "float32"


def _field(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)


def _kilobytes(text: str | None) -> int | None:
    return int(text.split()[0]) * 1024 if text else None


def commit() -> str | None:
    """The commit that is measured, with "+" when files of the checkout have changed since; None without git."""
    if shutil.which("git") is None:
        return None
    git = lambda *args: subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True).stdout.strip()  # noqa: E731
    name = git("rev-parse", "--short", "HEAD")
    return f"{name}{'+' if git('status', '--porcelain', 'groupwise') else ''}" if name else None


def header() -> dict[str, Any]:
    """What stands at the top of every result. Take it before measuring."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", *_relative(sys.argv)]),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }


def _relative(arguments: Sequence[str]) -> list[str]:
    """The arguments without a path of this machine: a file of this checkout from its root, another by its name."""
    script, *rest = arguments
    return [os.path.relpath(script, ROOT), *(Path(word).name if os.path.isabs(word) else word for word in rest)]


def save(path: Path, result: dict[str, Any]) -> None:
    """Write a result as readable JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{os.path.relpath(path)}")


def run_python(python: str | Path, script: str, *arguments: str, log: Path) -> None:
    """Run a script of bench/ in its own process, its output in `log`; exits with the log's end when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("w") as out:
        process = subprocess.run(
            [str(python), str(BENCH / script), *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=_first_to_go if sys.platform == "linux" else None,
        )
    if process.returncode != 0:
        tail = "\n".join(log.read_text().splitlines()[-25:])
        sys.exit(f"{script} ended with exit code {process.returncode}; the end of {log}:\n{tail}")


@dataclass(frozen=True)
class Ended:
    """How a process ended, and all that it said."""

    how: str
    """"well", "failed" or "cut off"."""
    seconds: float
    lines: list[str]


def run_watched(command: Sequence[str], limit_s: float) -> Ended:
    """Run a command for at most so long, passing on what it says as it says it."""
    start = perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
    was_cut_off = threading.Event()
    lines = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as process:

        def cut_off() -> None:
            was_cut_off.set()
            process.kill()

        clock = threading.Timer(limit_s, cut_off)
        clock.start()
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if not line.startswith("RESULT "):
                print(line, end="", flush=True)
    clock.cancel()
    code = process.returncode
    how = "cut off" if was_cut_off.is_set() else "well" if code == 0 else "failed"
    return Ended(how, perf_counter() - start, lines)


def _first_to_go() -> None:
    """When memory runs out, the kernel ends this process and not somebody else's."""
    Path("/proc/self/oom_score_adj").write_text("1000")
