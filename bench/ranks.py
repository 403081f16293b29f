"""What several ranks cost: a step of one rank with 2 threads against 2 ranks with 1 thread each, part by part.

Usage: python bench/ranks.py                    (5 starts of 8 steps, about 21 minutes on two idle cores)
       python bench/ranks.py --only lora        (the recipe's adapter: 2 starts, about 6 minutes)
       python bench/ranks.py --only full        (full fine-tuning, whole and in shards: 3 starts, about 15 minutes)

The recipe is arithmetic with the default model. Of every step the seconds of its parts are those of the run folder.
Beside them rank 0 measures each call that goes to the other ranks, with its bytes: `wait` is the time until the last
rank has come to the call, `share` that of the call itself. The first step, in which everything is set up, is left out.
Results go to bench/results/ranks.json.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import common
import runs

common.measure_this_checkout()

RECIPE = common.ROOT / "recipes" / "arithmetic-smollm2-cpu.yaml"
PARTS = ("rollout", "reward", "learn", "other")
FULL = ("lora=null", "learning_rate=1e-5")
CASES: dict[str, list[tuple[str, int, int, Sequence[str]]]] = {
    "lora": [("1 rank, 2 threads", 1, 2, ()), ("2 ranks, 1 thread each", 2, 1, ())],
    "full": [
        ("1 rank, 2 threads", 1, 2, FULL),
        ("2 ranks, 1 thread each", 2, 1, FULL),
        ("2 ranks in shards", 2, 1, (*FULL, "shard=full")),
    ],
}


class Traffic:
    """Seconds and bytes of the calls between the ranks, by their kind, over the steps of a run."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.calls: dict[str, dict[str, float]] = defaultdict(
            lambda: {"count": 0, "bytes": 0, "wait": 0.0, "share": 0.0}
        )
        self._depth = 0

    @contextmanager
    def measured(self, kind: str, num_bytes: int) -> Iterator[None]:
        """Inside is one call; the ranks are brought together before it, so that its time is its own."""
        if self._depth:
            yield
            return
        self._depth += 1
        start = perf_counter()
        self.world.meet()
        met = perf_counter()
        try:
            yield
        finally:
            self._depth -= 1
            call = self.calls[kind]
            call["count"] += 1
            call["bytes"] += num_bytes
            call["wait"] += met - start
            call["share"] += perf_counter() - met

    def of_steps(self, num_steps: int) -> dict[str, dict[str, float]]:
        """Of a step, the mean."""
        return {kind: {k: v / num_steps for k, v in call.items()} for kind, call in self.calls.items()}


def watch(world: Any) -> Traffic:
    """Measure every call of this rank to the others."""
    import torch.distributed as dist

    traffic = Traffic(world)
    share, gather, sum_, collective = world.share, world.gather, world.sum_, world.collective
    world.meet = lambda: dist.barrier(group=world._control)

    def shared(value: Any, what: str) -> Any:
        before = world.num_bytes_shared
        with traffic.measured("share the groups and orders", 0):
            found = share(value, what)
        traffic.calls["share the groups and orders"]["bytes"] += world.num_bytes_shared - before
        return found

    def gathered(value: Any, what: str) -> Any:
        kind = "gather completions" if "completions" in what else "gather measurements"
        with traffic.measured(kind, len(pickle.dumps(value))):
            return gather(value, what)

    def summed(tensors: Sequence[Any], what: str) -> None:
        num_bytes = sum(t.numel() * t.element_size() for t in tensors)
        with traffic.measured("sum gradients" if "sum" in what else "sum numbers", num_bytes):
            sum_(tensors, what)

    @contextmanager
    def sharded(what: str) -> Iterator[None]:  # those of the calls above are inside of theirs, and counted there
        with traffic.measured("gather and reduce shards", 0), collective(what):
            yield

    world.share, world.gather, world.sum_ = shared, gathered, summed
    world.collective = sharded
    return traffic


def train(job: dict[str, Any]) -> None:
    """One rank of a measured run."""
    from groupwise.config import load_recipe
    from groupwise.launch import is_leader
    from groupwise.ranks import this_world
    from groupwise.trainer import GRPOTrainer

    recipe = load_recipe(job["recipe"], job["changes"])
    trainer = GRPOTrainer.from_recipe(recipe, folder=Path(job["recipe"]).parent)
    world = this_world()
    traffic = watch(world) if world.size > 1 else None
    trainer.train()
    if is_leader():
        found = {} if traffic is None else traffic.of_steps(job["num_steps"])
        (Path(job["folder"]) / "traffic.json").write_text(json.dumps(found))


def measure(name: str, size: int, threads: int, changes: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Start one case and read what it left."""
    folder = common.SCRATCH / "ranks" / name.replace(" ", "-").replace(",", "")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    more = [f"output_dir={folder / 'run'}", f"max_steps={options.steps}", "save_strategy=no", "report_to=none"]
    if options.model:
        more.append(f"model={options.model}")
    job = {
        "recipe": str(options.recipe),
        "changes": [*changes, *more, *options.set],
        "folder": str(folder),
        "num_steps": options.steps,
    }
    (folder / "job.json").write_text(json.dumps(job))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    command = [*(launcher if size > 1 else [sys.executable]), str(Path(__file__)), "--job", str(folder / "job.json")]
    with (folder / "log").open("w") as log:
        code = subprocess.run(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
        ).returncode
    if code != 0:
        sys.exit(f"{name} ended with exit code {code}; see {folder / 'log'}")
    steps = runs.read_metrics(folder / "run")[1:]
    traffic = json.loads((folder / "traffic.json").read_text())
    parts = {part: median(step[f"time/{part}"] for step in steps) for part in PARTS}
    return {
        "case": name,
        "ranks": size,
        "threads": threads,
        "step_s": median(step["step_time"] for step in steps),
        **{f"{part}_s": seconds for part, seconds in parts.items()},
        "tokens_per_step": (steps[-1]["num_tokens"] - steps[0]["num_tokens"]) / max(len(steps) - 1, 1),
        "sharing": {key: sum(call[key] for call in traffic.values()) for key in ("bytes", "wait", "share")},
        "traffic": traffic,
    }


def overhead(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds of each part on 2 ranks over those on one rank with 2 threads: 1 is no overhead."""
    one, two = found[0], found[1]
    keys = ("step_s", "rollout_s", "reward_s", "learn_s")
    return {key: two[key] / one[key] for key in keys if one[key]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CASES), help="the recipe's adapter or full fine-tuning, not both")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--model", help="another model than the recipe's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the recipe")
    parser.add_argument("--result", type=Path, default=common.RESULTS / "ranks.json")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.job is not None:
        train(json.loads(options.job.read_text()))
        return
    for kind in [options.only] if options.only else CASES:
        measure_kind(kind, options)


def measure_kind(kind: str, options: argparse.Namespace) -> None:
    """Measure the cases of a kind, print them, and put them beside what the result file holds."""
    header = common.header()
    found = [measure(*case, options) for case in CASES[kind]]
    earlier = json.loads(options.result.read_text()) if options.result.is_file() else {}
    result = {**earlier, kind: {**header, "recipe": options.recipe.name, "cases": found, "overhead": overhead(found)}}
    for case in found:
        seconds = "  ".join(f"{part} {case[f'{part}_s']:.2f}" for part in PARTS)
        shared = f"  shared {case['sharing']['bytes'] / 1e6:.2f} MB in {case['sharing']['share']:.3f} s"
        print(f"{case['case']:<24} step {case['step_s']:.2f} s: {seconds}{shared}")
    print("2 ranks / 1 rank:", {key: round(value, 2) for key, value in result[kind]["overhead"].items()})
    common.save(options.result, result)


if __name__ == "__main__":
    main()
