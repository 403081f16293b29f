"""What the knobs do: small runs of one recipe, one knob changed at a time, all with the same number of completions.

Usage: python bench/choosing.py                                    (14 runs, about 45 minutes on two idle cores)
       python bench/choosing.py --studies group-size beta          (their runs alone)

Every study varies one knob of recipes/choosing-smollm2-cpu.yaml. The run with nothing changed belongs to all of them
and is made once. Runs have the same seed: the same problems in the same order, the same random numbers for a
completion. The study "seed" changes nothing else, and so says how much of a difference is luck.

Whatever a run is rewarded for, two numbers measure it: how far its completions are from 50 characters, and the share of
them that has 40 to 60.

Go on after an interruption with the same command: a run that stands in the result with the same settings is kept,
unless --again is given. python docs/fill_choosing.py writes docs/choosing.md from the result.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import common
import runs

common.measure_this_checkout()

RECIPE = common.ROOT / "recipes" / "choosing-smollm2-cpu.yaml"
BASELINE = "baseline"

Settings = tuple[str, ...]

STUDIES: dict[str, dict[str, Settings]] = {
    "group-size": {
        "4": ("num_generations=4", "prompts_per_step=4"),
        "8": (),
        "16": ("num_generations=16", "prompts_per_step=1"),
    },
    "beta": {
        "0": ("beta=0", "kl_metric_steps=10"),  # without it nobody would know how far it went
        "0.01": ("beta=0.01",),
        "0.04": (),
        "0.1": ("beta=0.1",),
    },
    "learning-rate": {
        "2e-5": ("learning_rate=2e-5",),
        "1e-4": ("learning_rate=1e-4",),
        "5e-4": (),
        "2e-3": ("learning_rate=2e-3",),
    },
    "scale": {"group_std": (), "none": ("scale=none",)},
    "reward": {
        "distance": (),
        "hit or miss": ("rewards.0.weight=0", "rewards.1.weight=1"),
        "both": ("rewards.0.weight=0.01", "rewards.1.weight=1"),
    },
    "seed": {"42": (), "1": ("seed=1",), "2": ("seed=2",)},
}
"""Study -> what its runs are called -> the settings they change. No settings: the baseline."""

DISTANCE, HIT = "rewards/length/mean", "rewards/regex/mean"

CURVES = {
    "distance": DISTANCE,
    "hit": HIT,
    "kl": "kl",
    "no_signal": "frac_reward_zero_std",
    "entropy": "entropy",
    "grad_norm": "grad_norm",
    "length": "completions/mean_length",
    "seconds": "step_time",
}
"""Name in the result -> key of the record, one value a step."""

DIGITS = 5
"""Significant digits that a curve keeps."""

LAST_STEPS = 10
CLOSE = 25.0
"""Characters from the target, about half of what the untrained model is away."""
CLOSE_STEPS = 5

QUICK = ("max_steps=2", "max_completion_length=8", "num_eval_problems=2", "max_prompt_length=64")


def key_of(settings: Settings) -> str:
    """The name of a run in the result, the same in every study."""
    return " ".join(settings) or BASELINE


def wanted(studies: Sequence[str]) -> dict[str, Settings]:
    """The runs of these studies, each once, the baseline first."""
    found: dict[str, Settings] = {BASELINE: ()}
    for study in studies:
        found |= {key_of(settings): settings for settings in STUDIES[study].values()}
    return found


def curves(metrics: Sequence[dict[str, Any]]) -> dict[str, list[float | None]]:
    """One value a step under each name; None where it was not measured."""
    return {name: [_short(step.get(key)) for step in metrics] for name, key in CURVES.items()}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def measures(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A run in the numbers of the table; rewards as they were returned, without weights."""
    last = metrics[-LAST_STEPS:]
    return {
        "last_steps": len(last),
        "last_distance": mean_of([step[DISTANCE] for step in last]),
        "last_hit": mean_of([step[HIT] for step in last]),
        "steps_until_close": steps_until(CLOSE, [step[DISTANCE] for step in metrics]),
        "last_kl": next((step["kl"] for step in reversed(metrics) if step.get("kl") is not None), None),
        "no_signal": fmean(step["frac_reward_zero_std"] for step in metrics),
        "seconds": sum(step["step_time"] for step in metrics),
        "num_tokens": metrics[-1]["num_tokens"],
        "held_out": held_out(metrics),
    }


def mean_of(values: Sequence[float]) -> dict[str, float]:
    """Mean over steps and its standard error."""
    return {"mean": fmean(values), "stderr": stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0}


def steps_until(close: float, distances: Sequence[float]) -> int | None:
    """The first step at which the mean of the last steps is at most `close` away; None when none is."""
    for step in range(CLOSE_STEPS, len(distances) + 1):
        if -fmean(distances[step - CLOSE_STEPS : step]) <= close:
            return step
    return None


def held_out(metrics: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Mean distance on problems that no run trains on, before and after; None without two evaluations."""
    found = [step[f"eval_{DISTANCE}"] for step in metrics if step.get(f"eval_{DISTANCE}") is not None]
    return {"before": found[0], "after": found[-1]} if len(found) > 1 else None


def measure(key: str, settings: Sequence[str], steps: int) -> dict[str, Any]:
    """Train one variant, in a process of its own."""
    from groupwise.config import load_recipe

    folder = common.SCRATCH / "choosing" / "".join(c if c.isalnum() or c in ".-" else "-" for c in key)
    load = common.machine()["load_before"]
    run = runs.train(RECIPE, folder, settings)
    metrics = runs.read_metrics(folder)
    if len(metrics) != steps:
        sys.exit(f"{key}: {len(metrics)} steps instead of {steps}; {folder}/events.jsonl says why.")
    config = load_recipe(RECIPE, list(settings)).config
    return {
        "settings": list(settings),
        "commit": common.commit(),
        "load_before": load,
        "num_steps": steps,
        "num_completions": steps * config.completions_per_step,
        "seconds_with_loading": run["wall_seconds"],
        "peak_bytes": run["peak_bytes"],
        **measures(metrics),
        "curves": curves(metrics),
    }


def begun(path: Path, again: bool) -> dict[str, Any]:
    """The runs that the result already has; an error when they were measured on another machine."""
    if again or not path.is_file():
        return {}
    found = json.loads(path.read_text())
    here, there = common.machine(), found["machine"]
    for name in ("cpu", "cores"):
        if here[name] != there[name]:
            sys.exit(
                f"{path} was measured on {there['cores']} cores of {there['cpu']}, this machine has {here['cores']} of "
                f"{here['cpu']}, and times cannot be compared. Give another --output, or --again."
            )
    return dict(found["runs"])


def tell(key: str, run: dict[str, Any]) -> None:
    """One line a run."""
    last = run["last_distance"]
    print(
        f"{key}: {run['num_completions']} completions in {run['seconds']:.0f} s, "
        f"{-last['mean']:.1f} +- {last['stderr']:.1f} characters from the target at the end",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES), metavar="NAME", help="(all)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key in every run")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "choosing.json")
    parser.add_argument("--again", action="store_true", help="throw away what the result already has")
    parser.add_argument("--quick", action="store_true", help="smoke test: two steps of 8 tokens for each run")
    arguments = parser.parse_args()
    from groupwise.config import load_recipe

    shared = [*(QUICK if arguments.quick else ()), *arguments.set]
    steps = load_recipe(RECIPE, shared).config.max_steps
    shared = [*shared, f"eval_steps={steps}"]  # the second evaluation is that of the last step
    done = begun(arguments.output, arguments.again)
    result = {
        **common.header(),
        "recipe": RECIPE.name,
        "is_quick": arguments.quick,
        "close": CLOSE,
        "studies": {name: {label: key_of(s) for label, s in study.items()} for name, study in STUDIES.items()},
        "runs": done,
    }
    for key, own in wanted(arguments.studies).items():
        settings = [*shared, *own]
        if done.get(key, {}).get("settings") != settings:
            done[key] = measure(key, settings, steps)
            common.save(arguments.output, result)  # after each, so that an hour is not lost to the last one
        tell(key, done[key])


if __name__ == "__main__":
    main()
