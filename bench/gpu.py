"""What a GPU is checked for and measured on, most important first; useful after five minutes of a card.

Usage: python bench/gpu.py                         (one NVIDIA GPU; `make gpu` does the same)
       python bench/gpu.py --only rollout learner   (these parts alone)
       python bench/gpu.py --tiny --device cpu      (the same code on a CPU that computes as a GPU: a smoke test)

groupwise is imported from this checkout, installed or not; nothing is downloaded. Each part runs in a process of its
own under its own time limit, and adds a line of JSON to bench/results/gpu.jsonl (or to --out) when it is done; one that
is cut off leaves what it had. A table stands at the end.

ceilings    bytes a second that a copy moves, bfloat16 products of 8192^3
checks      tests/gpu: correct in float32 and bfloat16
mismatch    mean exp |rollout log-prob - learner log-prob| in bfloat16, random weights
rollout     tokens/s at 64, 8 and 256 rows of a 0.5B model, prompts of 256 tokens, 256 new ones
bandwidth   token steps of 8 rows of a 1.5B model, beside the time in which its weights can be read once
demo        seconds a step of the demo's recipe with a model of 135M
step        seconds a step of a 0.5B model: 8 prompts of 256 x 8 completions of 256, LoRA, beta 0.04
learner     packs of 16,384 tokens of a 1.5B model, forward and backward: share of the products' ceiling
trl         seconds a step of TRL on the same work as `step`, where it is installed
generate    tokens/s of `model.generate` of transformers on the rollout's prompts: how TRL samples without vLLM
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import common
import gpu_parts

Found = dict[str, Any]


def results(name: str, arguments: argparse.Namespace) -> Iterator[Found]:
    """What the part has found so far, again and again."""
    work = gpu_parts.Work.of(arguments.device, is_tiny=arguments.tiny)
    from groupwise.policy.backend import GPU, backend_override

    with backend_override(GPU) if work.device.type == "cpu" else nullcontext():
        yield from gpu_parts.PARTS[name].measure(work)


def child(name: str, arguments: argparse.Namespace) -> Found:
    """The part in a process of its own: what it found, and how it ended."""
    flags = ["--part", name, "--device", arguments.device, *(["--tiny"] if arguments.tiny else [])]
    ended = common.run_watched([sys.executable, __file__, *flags], gpu_parts.PARTS[name].limit_s)
    results = [line for line in ended.lines if line.startswith("RESULT ")]
    found: Found = {"part": name, "seconds": ended.seconds, "ended": ended.how}
    found["found"] = json.loads(results[-1].removeprefix("RESULT ")) if results else None
    if ended.how != "well":
        found["last_lines"] = [line for line in ended.lines if not line.startswith("RESULT ")][-25:]
    return found


def here(name: str, arguments: argparse.Namespace) -> Found:
    """The part in this process, which saves the start of another one."""
    import torch

    found: Found = {"part": name, "seconds": 0.0, "ended": "well", "found": None}

    def end(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, end)
    signal.alarm(gpu_parts.PARTS[name].limit_s)
    start = perf_counter()
    try:
        for result in results(name, arguments):
            found["found"] = result
    except TimeoutError:
        found["ended"] = "cut off"
    except Exception:
        found |= {"ended": "failed", "last_lines": traceback.format_exc().splitlines()[-25:]}
    signal.alarm(0)
    gc.collect()
    if arguments.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    print(f"RESULT {json.dumps(found)}", flush=True)
    return found | {"seconds": perf_counter() - start}


def summary(lines: list[Found]) -> Iterator[str]:
    """A line a part, its figures beside it."""
    for line in lines:
        figures = ", ".join(f"{key} {_short(value)}" for key, value in _flat(line["found"] or {}))
        yield f"{line['part']:10}{line['seconds']:7.0f} s  {line['ended']:12} {figures}"


def _flat(found: Found, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in found.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list) or len(value) <= 5:
            yield f"{prefix}{key}", value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def has_device(device: str) -> bool:
    import torch

    return device == "cpu" or torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=gpu_parts.PARTS, default=list(gpu_parts.PARTS))
    parser.add_argument("--out", type=Path, default=common.RESULTS / "gpu.jsonl")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: a smoke test")
    parser.add_argument("--one-process", action="store_true", help="save the start of a process for every part")
    parser.add_argument("--part", choices=gpu_parts.PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        for found in results(arguments.part, arguments):
            print("RESULT", json.dumps(found), flush=True)
        return
    if not has_device(arguments.device):
        print("SKIPPED: there is no NVIDIA GPU here that torch can use. Nothing was measured.")
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    header, lines = common.header() | {"device": gpu_parts.device_name(arguments.device)}, []
    add: Callable[[Found], None] = lambda line: arguments.out.open("a").write(json.dumps(line) + "\n")  # type: ignore[assignment]  # noqa: E731
    add(header | {"is_tiny": arguments.tiny})
    for name in arguments.only:
        print(f"--- {name}", flush=True)
        lines.append((here if arguments.one_process else child)(name, arguments))
        add(lines[-1])
    print("\n" + "\n".join(summary(lines)))


if __name__ == "__main__":
    main()
