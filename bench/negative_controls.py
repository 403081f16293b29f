"""What must not learn: the demo recipe, shortened, with learning rate 0 and with rewards dealt out at random.

Usage: python bench/negative_controls.py

Three runs see the same prompts with the same seeds. With learning rate 0 every completion is the base model's, so the
other runs are compared with it step by step: the gain is the mean difference of reward over the last third of the run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import common
import runs
from demo_seeds import DEMO

RUNS: dict[str, dict[str, Any]] = {
    "learning_rate_0": {"settings": ["learning_rate=0"]},
    "shuffled_rewards": {"shuffle_rewards": True},
    "as_it_is": {},
}
NO_EVALUATION = ["eval_strategy=no", "eval_steps=null", "eval_on_start=false", "save_strategy=no"]


def gain(rewards: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Mean difference from the base over the last third of the steps, with its standard error over steps."""
    count = max(len(rewards) // 3, 1)
    differences = [r - b for r, b in zip(rewards[-count:], base[-count:], strict=True)]
    error = stdev(differences) / count**0.5 if count > 1 else None
    return {"gain": fmean(differences), "stderr": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=DEMO)
    parser.add_argument("--steps", type=int, default=12, help="steps of each run (12)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "negative_controls.json")
    parser.add_argument("--quick", action="store_true", help="smoke test: one step of 8 tokens for each run")
    arguments = parser.parse_args()
    settings = [*NO_EVALUATION, *arguments.set, f"max_steps={1 if arguments.quick else arguments.steps}"]
    if arguments.quick:
        settings += ["max_completion_length=8", "prompts_per_step=1"]
    result: dict[str, Any] = {**common.header(), "recipe": arguments.recipe.name, "is_quick": arguments.quick}
    found: dict[str, Any] = {}
    for name, options in RUNS.items():
        folder = common.SCRATCH / "negative_controls" / name
        own = [*settings, *options.get("settings", ())]
        run = runs.train(arguments.recipe, folder, own, shuffle_rewards=options.get("shuffle_rewards", False))
        base = found.get("learning_rate_0", run)["rewards"]
        found[name] = {**run, **gain(run["rewards"], base)}
        print(f"{name:18} reward {run['first_reward']:8.1f} at first, gain {found[name]['gain']:+8.1f}", flush=True)
    common.save(arguments.output, {**result, "runs": found})


if __name__ == "__main__":
    main()
