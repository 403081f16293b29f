"""Where the time of decode steps and of learner passes goes, and what holds the memory of a step.

Usage: python bench/gpu_profile.py                          (one NVIDIA GPU)
       python bench/gpu_profile.py --only lora-1.5B memory   (these alone)
       python bench/gpu_profile.py --tiny --device cpu       (operations instead of kernels: a smoke test)

Models have random weights. For each piece of work: its wall-clock time, the largest kernels, the operations that they
belong to with the shapes of their inputs, how long the GPU waits, and the Python functions that the host is in then.

decode-8      8 tokens of 8 rows of a 1.5B model
decode-32     8 tokens of 32 rows of a 135M model, as in the demo
decode-64     8 tokens of 64 rows of a 0.5B model
lora-1.5B     a learner's pass of 16,384 tokens of a 1.5B model under an adapter, and full-1.5B the same trained whole
lora-0.5B     a pass over 2 groups of 8 x 256 tokens of a 0.5B model
lora-135M     a pass over 4 groups of 8 x 96 tokens of a 135M model, as in the demo
memory        tensors alive at the peak of a step of the 0.5B model, by the line that made them
"""

from __future__ import annotations

import argparse
import cProfile
import io
import pstats
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from time import perf_counter
from typing import Any

import gpu_parts
import torch
from gpu_parts import BIG, GROUP, HALF, SMALL, Shape, Work
from torch.profiler import ProfilerActivity, profile

SHOWN = 14
"""Lines of each table."""


def decode_block(work: Work, shape: Shape, rows: int) -> Callable[[], Any]:
    """Draws one block of tokens, over buffers that a call has left behind."""
    from groupwise.rollout.native import NativeEngine

    policy_model = gpu_parts.random_network(shape, work.device)
    engine = NativeEngine(policy_model.fused, max_concurrent=rows)
    engine.load_weights(policy_model, version=0)
    list(engine.generate(gpu_parts.requests(work, rows, shape.vocabulary)))
    assert engine.decoder is not None
    grid = max(engine.decoder.grids.values(), key=lambda g: (g.bucket.rows, g.bucket.own))
    recorder = engine.decoder.recorder

    @torch.inference_mode()
    def draw() -> None:
        grid.is_growing_R.fill_(True)
        grid.length_R.zero_()
        grid.launch(8, 0, recorder).read()

    return draw


def learner_pass(work: Work, shape: Shape, groups: int, tokens: int, *, is_full: bool = False) -> Callable[[], Any]:
    """A pass over that many groups of completions of that many tokens, forward and backward."""
    from groupwise.policy.packing import CompletionRows
    from groupwise.policy.policy_model import Scoring

    policy_model = gpu_parts.random_network(shape, work.device, is_full=is_full)
    group = [n for n in range(groups) for _ in range(GROUP)]
    prompts = gpu_parts.random_ids(groups, work.prompt_tokens, shape.vocabulary)
    rows = CompletionRows(
        [prompts[n] for n in group], gpu_parts.random_ids(len(group), tokens, shape.vocabulary), group
    )

    def learn() -> None:
        with policy_model.pass_over(rows, Scoring(with_entropy=False)) as scores:
            scores.logprob_NT.mean().backward()

    return learn


def shown(name: str, run: Callable[[], Any], work: Work) -> Iterator[str]:
    """The profile of one run, in lines."""
    is_gpu = work.device.type == "cuda"
    wall_ms = 1000 * min(work.seconds(run, 3, 2))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    with profile(activities=activities, record_shapes=True) as found:
        run()
        work.wait()
    kernels: dict[str, tuple[float, int]] = {}
    for event in found.events() or ():
        if is_gpu and event.device_type != torch.autograd.DeviceType.CUDA:  # type: ignore[attr-defined]
            continue
        ms = (event.device_time_total if is_gpu else event.self_cpu_time_total) / 1000
        before = kernels.get(event.name, (0.0, 0))
        kernels[event.name] = (before[0] + ms, before[1] + 1)
    busy_ms, count = sum(ms for ms, _ in kernels.values()), sum(n for _, n in kernels.values())
    yield f"{name}: {wall_ms:.2f} ms, {count} kernels take {busy_ms:.2f} ms, the GPU waits {wall_ms - busy_ms:.2f} ms"
    for kernel, (ms, number) in sorted(kernels.items(), key=lambda item: -item[1][0])[:SHOWN]:
        yield f"  {ms:8.3f} ms {number:6} x  {kernel[:110]}"
    yield "  operations by the shapes of their inputs"
    kind = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    averages = found.key_averages(group_by_input_shape=True)
    for event in sorted(averages, key=lambda e: -getattr(e, kind))[:SHOWN]:
        ms = getattr(event, kind) / 1000
        yield f"  {ms:8.3f} ms {event.count:6} x  {event.key[:50]} {str(event.input_shapes)[:90]}"
    yield from _host(run, work)


def _host(run: Callable[[], Any], work: Work) -> Iterator[str]:
    """Functions that the host's own time goes to."""
    recorded = cProfile.Profile()
    start = perf_counter()
    recorded.runcall(run)
    until_ms = 1000 * (perf_counter() - start)
    work.wait()
    text = io.StringIO()
    pstats.Stats(recorded, stream=text).sort_stats("tottime").print_stats(SHOWN)
    yield f"  the host is done after {until_ms:.1f} ms (with a profiler)"
    yield from (line[:150] for line in text.getvalue().splitlines()[7:] if line.strip())


def memory(work: Work) -> Iterator[str]:
    """What is alive at the peak, by the line of ours that made it."""
    if work.device.type != "cuda":
        yield "memory: a CPU keeps no record of its tensors"
        return
    torch.cuda.memory._record_memory_history(max_entries=1_000_000, stacks="python")
    found = list(gpu_parts.step(work))
    history = torch.cuda.memory._snapshot()["device_traces"][0]
    torch.cuda.memory._record_memory_history(enabled=None)
    alive: dict[int, Any] = {}
    held = peak = 0
    at_peak: dict[int, Any] = {}
    for entry in history:
        if entry["action"] == "alloc":
            alive[entry["addr"]] = entry
            held += entry["size"]
            if held > peak + 2**26 or (held > peak and not at_peak):
                peak, at_peak = held, dict(alive)
        elif entry["action"] == "free_completed" and (gone := alive.pop(entry["addr"], None)) is not None:
            held -= gone["size"]
    sizes: Counter[str] = Counter()
    for entry in at_peak.values():
        ours = [f for f in entry["frames"] if "/groupwise/" in f["filename"]][:2]
        sizes[" < ".join(f"{f['filename'].rsplit('/', 1)[-1]}:{f['line']} {f['name']}" for f in ours)] += entry["size"]
    yield f"memory: {found[-1]['peak_gib']:.2f} GiB at the peak, {peak / 2**30:.2f} GiB of them in this history"
    for place, size in sizes.most_common(2 * SHOWN):
        yield f"  {size / 2**30:7.3f} GiB  {place or 'elsewhere'}"


def pieces(work: Work) -> dict[str, Callable[[], Callable[[], Any]]]:
    """How to make each piece of work, by name."""
    rows = (lambda count: min(count, work.rows[0])) if work.is_tiny else (lambda count: count)
    big, half, small = (work.shape(shape) for shape in (BIG, HALF, SMALL))
    long = work.pack // 2 // GROUP - work.prompt_tokens // GROUP
    short = 96 if not work.is_tiny else work.new_tokens
    return {
        "lora-1.5B": partial(learner_pass, work, big, 2, long),
        "full-1.5B": partial(learner_pass, work, big, 2, long, is_full=True),
        "decode-8": partial(decode_block, work, big, rows(8)),
        "lora-135M": partial(learner_pass, work, small, 4, short),
        "decode-32": partial(decode_block, work, small, rows(32)),
        "lora-0.5B": partial(learner_pass, work, half, 2, work.new_tokens),
        "decode-64": partial(decode_block, work, half, rows(64)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: a smoke test")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these pieces of work alone")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("SKIPPED: there is no NVIDIA GPU here that torch can use. Nothing was measured.")
        return
    from groupwise.policy.backend import GPU, backend_override

    work = Work.of(arguments.device, is_tiny=arguments.tiny)
    makers = pieces(work)
    with backend_override(GPU) if work.device.type == "cpu" else nullcontext():
        for name in arguments.only or [*makers, "memory"]:
            lines = memory(work) if name == "memory" else shown(name, makers[name](), work)
            print("\n".join(lines), flush=True)
            if work.device.type == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
