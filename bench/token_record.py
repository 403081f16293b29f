"""What the per-token record costs: its share of a step's seconds, and its bytes.

Usage: python bench/token_record.py              (10 steps of the demo, about 3 minutes on two idle cores)

A short run of the demo's recipe. Everything that is done for the record alone is timed: the learner keeps the log-probs
of its passes, the arrays are made, the file is written. The share of a step is that over `step_time`, in which writing
is not counted, so it is an upper bound. `large`: the same arrays and file for a made-up step of 256 completions of 512
tokens.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import common

common.measure_this_checkout()

KEEPING, MAKING, WRITING = "keeping log-probs", "making arrays", "writing the file"


class Stopwatch:
    """Seconds by part since the last reading."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = perf_counter()
            found = function(*arguments, **keywords)
            self.seconds[part] = self.seconds.get(part, 0.0) + perf_counter() - start
            return found

        return timed

    def read(self) -> dict[str, float]:
        seconds, self.seconds = self.seconds, {}
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=common.ROOT / "recipes" / "length-smollm2-cpu.yaml")
    parser.add_argument("--steps", type=int, default=10, help="timed steps, after one to warm up (10)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "token_record.json")
    parser.add_argument("--quick", action="store_true", help="smoke test: two prompts, one timed step")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.set += ["prompts_per_step=2", "num_generations=2", "max_completion_length=16"]
        arguments.steps = 1
    result = {**common.header(), "is_quick": arguments.quick, "recipe": arguments.recipe.name}
    result |= {"demo": measure(arguments), "large": measure_large(256, 512)}
    common.save(arguments.output, result)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """A run of the recipe, every step with a record."""
    from groupwise import GRPOTrainer
    from groupwise.config import load_recipe
    from groupwise.lifecycle import hooks
    from groupwise.lifecycle.step_tokens import token_record
    from groupwise.runs.folder import RunFolder
    from groupwise.runs.reader import RunReader
    from groupwise.runs.token_record import read_token_record
    from groupwise.runs.writer import RunWriter

    folder = common.SCRATCH / "token_record"
    shutil.rmtree(folder, ignore_errors=True)
    changes = ["eval_steps=null", "eval_on_start=false", "save_strategy=no", f"max_steps={arguments.steps + 1}"]
    recipe = load_recipe(arguments.recipe, [*changes, *arguments.set, f"output_dir={folder}"])
    watch, by_step = Stopwatch(), list[dict[str, float]]()
    time_learner(watch)
    hooks.token_record = watch.time(MAKING, token_record)  # type: ignore[attr-defined]  # where a step is recorded
    write = RunWriter._replace

    def written(self: RunWriter, path: Path, content: bytes) -> None:
        part = WRITING if path.suffix == ".safetensors" else "the groups"
        watch.time(part, write)(self, path, content)
        if part == "the groups":  # the last that is written of a step
            by_step.append(watch.read())

    RunWriter._replace = written  # type: ignore[method-assign]
    GRPOTrainer.from_recipe(recipe, folder=recipe.folder).train()
    steps = [record["step_time"] for record in RunReader(folder).metrics()]
    parts = (KEEPING, MAKING, WRITING)
    own = [sum(seconds.get(part, 0.0) for part in parts) for seconds in by_step]
    run, numbers = RunFolder(folder), range(2, len(steps) + 1)
    tokens = [int(record.lengths.sum()) for n in numbers if (record := read_token_record(run, n)) is not None]
    shares = [mine / step for mine, step in zip(own[1:], steps[1:], strict=True)]
    found = {
        "step_s": common.spread(steps[1:]),
        "share_of_step": common.spread(shares),
        "seconds": {part: common.spread([seconds.get(part, 0.0) for seconds in by_step[1:]]) for part in parts},
        "tokens": common.spread(tokens),
        "record_bytes": common.spread([run.tokens_of(n).stat().st_size for n in numbers]),
        "groups_bytes": common.spread([run.completions_of(n).stat().st_size for n in numbers]),
    }
    share, size = common.spread(shares), common.spread([run.tokens_of(n).stat().st_size for n in numbers])
    print(f"{share['median']:.4%} of a step ({share['min']:.4%} to {share['max']:.4%}), {size['median']:,.0f} bytes")
    return found


def time_learner(watch: Stopwatch) -> None:
    """Time what the learner does for the record."""
    from groupwise.train.first_logprobs import FirstLogProbs

    keeper = FirstLogProbs.keeper

    def timed_keeper(self: FirstLogProbs, rows: Any) -> Any:
        return watch.time(KEEPING, keeper(self, rows))

    FirstLogProbs.keeper = timed_keeper  # type: ignore[method-assign]
    FirstLogProbs.__init__ = watch.time(KEEPING, FirstLogProbs.__init__)  # type: ignore[method-assign]
    FirstLogProbs.of_all_ranks = watch.time(KEEPING, FirstLogProbs.of_all_ranks)  # type: ignore[method-assign]


def measure_large(num_completions: int, num_tokens: int) -> dict[str, Any]:
    """Arrays and file of a step that is made up: log-probs and ratios of whole rows."""
    import torch

    from groupwise.lifecycle.step_tokens import token_record
    from groupwise.runs import disk

    result = made_up(num_completions, num_tokens)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.tokens.safetensors"
        for _ in range(9):
            start = perf_counter()
            disk.replace(path, token_record(result).as_bytes())
            seconds.append(perf_counter() - start)
        size = path.stat().st_size
    print(f"{num_completions} completions of {num_tokens} tokens: {size:,} bytes, {1000 * min(seconds):.0f} ms")
    return {
        "completions": num_completions,
        "tokens": num_completions * num_tokens,
        "seconds": common.spread(seconds),
        "record_bytes": size,
        "threads": torch.get_num_threads(),
    }


def made_up(num_completions: int, num_tokens: int) -> Any:
    """A step's result of random numbers, as far as the record reads it."""
    from types import SimpleNamespace

    import torch

    from groupwise.types import Completion

    generator = torch.Generator().manual_seed(0)
    rows = -torch.rand(num_completions, num_tokens, generator=generator)
    ids = tuple(range(num_tokens))
    completions = [Completion(ids, tuple(row), "length", 0) for row in rows.tolist()]
    batch = SimpleNamespace(
        old_logprob_NT=None,
        ref_logprob_NT=rows + 0.1,
        advantages=torch.zeros(num_completions),
        mask_NT=torch.ones_like(rows, dtype=torch.bool),
    )
    group, update = SimpleNamespace(completions=completions), SimpleNamespace(logprob_NT=rows)
    return SimpleNamespace(batch=batch, groups=[group], update=update)


if __name__ == "__main__":
    main()
