"""Where the time of a decode step and of a learner pass goes: the ten largest kernels, and how long the GPU waits.

Usage: python bench/gpu_profile.py                      (one NVIDIA GPU)
       python bench/gpu_profile.py --tiny --device cpu   (operations instead of kernels: a smoke test)

The 0.5B model of gpu.py with random weights: 8 tokens of 64 rows, and a pass over 2 groups of 8 x 256 tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import gpu_parts
import torch
from torch.profiler import ProfilerActivity, profile


def decode_block(policy_model: Any, work: gpu_parts.Work, vocabulary: int) -> Callable[[], Any]:
    """Draws one block of tokens, over buffers that a call has left behind."""
    from groupwise.rollout.native import NativeEngine

    engine = NativeEngine(policy_model.fused, max_concurrent=work.rows[0])
    engine.load_weights(policy_model, version=0)
    list(engine.generate(gpu_parts.requests(work, work.rows[0], vocabulary)))
    assert engine.decoder is not None
    grid = max(engine.decoder.grids.values(), key=lambda g: (g.bucket.rows, g.bucket.own))
    recorder = engine.decoder.recorder

    @torch.inference_mode()
    def draw() -> None:
        grid.is_growing_R.fill_(True)
        grid.length_R.zero_()
        grid.launch(8, 0, recorder).read()

    return draw


def learner_pass(policy_model: Any, work: gpu_parts.Work, vocabulary: int) -> Callable[[], Any]:
    from groupwise.policy.packing import CompletionRows
    from groupwise.policy.policy_model import Scoring

    group = [0] * gpu_parts.GROUP + [1] * gpu_parts.GROUP
    prompts = gpu_parts.random_ids(2, work.prompt_tokens, vocabulary)
    rows = CompletionRows(
        [prompts[n] for n in group], gpu_parts.random_ids(len(group), work.new_tokens, vocabulary), group
    )

    def learn() -> None:
        with policy_model.pass_over(rows, Scoring()) as scores:
            scores.logprob_NT.mean().backward()

    return learn


def shown(name: str, run: Callable[[], Any], work: gpu_parts.Work) -> Iterator[str]:
    """The profile of one run, in lines."""
    for _ in range(3):
        run()
    is_gpu = work.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    work.wait()
    start = perf_counter()
    run()
    work.wait()
    wall_ms = 1000 * (perf_counter() - start)
    with profile(activities=activities) as found:
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
    for kernel, (ms, number) in sorted(kernels.items(), key=lambda item: -item[1][0])[:10]:
        yield f"  {ms:8.3f} ms {number:6} x  {kernel[:110]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: a smoke test")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("SKIPPED: there is no NVIDIA GPU here that torch can use. Nothing was measured.")
        return
    from groupwise.policy.backend import GPU, backend_override

    work = gpu_parts.Work.of(arguments.device, is_tiny=arguments.tiny)
    shape = work.shape(gpu_parts.HALF)
    with backend_override(GPU) if work.device.type == "cpu" else nullcontext():
        policy_model = gpu_parts.random_network(shape, work.device)
        for name, make in (("8 decode steps", decode_block), ("learner pass", learner_pass)):
            print("\n".join(shown(name, make(policy_model, work, shape.vocabulary), work)), flush=True)


if __name__ == "__main__":
    main()
