"""The demo recipe for several seeds, one after another: time, first reward, mean reward of the last ten steps, memory.

Usage: python bench/demo_seeds.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common
import runs

DEMO = common.ROOT / "recipes" / "length-smollm2-cpu.yaml"
TARGET_REWARD, TARGET_SECONDS = -40.0, 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=DEMO)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "demo_seeds.json")
    parser.add_argument("--quick", action="store_true", help="smoke test: one step of 8 tokens for each seed")
    arguments = parser.parse_args()
    settings = list(arguments.set)
    if arguments.quick:
        settings += ["max_steps=1", "max_completion_length=8", "num_eval_problems=2", "prompts_per_step=1"]
    result = {**common.header(), "recipe": arguments.recipe.name, "is_quick": arguments.quick, "seeds": {}}
    for seed in arguments.seeds:
        folder = common.SCRATCH / "demo_seeds" / f"seed-{seed}"
        run = runs.train(arguments.recipe, folder, [*settings, f"seed={seed}"])
        reached = run["last_10_reward"] >= TARGET_REWARD and run["wall_seconds"] <= TARGET_SECONDS
        result["seeds"][str(seed)] = {**run, "is_target_reached": reached}
        print(
            f"seed {seed}: {run['wall_seconds']:.0f} s, "
            f"reward {run['first_reward']:.1f} -> {run['last_10_reward']:.1f}, "
            f"peak {run['peak_bytes'] / 2**30:.2f} GiB{'' if reached else '  (misses the target)'}",
            flush=True,
        )
    common.save(arguments.output, result)


if __name__ == "__main__":
    main()
