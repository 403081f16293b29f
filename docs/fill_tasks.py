"""Writes the measured part of docs/tasks.md and draws its pictures, from bench/results/task_recipes.json.

python docs/fill_tasks.py --runs bench/.work/task_recipes

`--runs` is where bench/task_recipes.py left the runs; without it the pictures stay as they are. Replaces what stands
between `<!-- recipes -->` and `<!-- /recipes -->`; the rest of the page is written by hand.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blocks import replaced

from groupwise.report.style import LIGHT
from groupwise.report.write import draw
from groupwise.runs import RunReader
from groupwise.runs.text import duration

DOCS = Path(__file__).parent
PAGE = DOCS / "tasks.md"
RESULT = DOCS.parent / "bench" / "results" / "task_recipes.json"
PICTURE = "reward"

HEAD = ("recipe", "seed", "time", "measure", "sampled: before", "after", "greedy: before", "after")
MEASURES = ("success", "reward", "rewards/length", "rewards/rouge")
"""Those that are shown where a recipe has them; success instead of the reward that it is made of."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder with a run for every recipe and seed, called RECIPE-SEED")
    options = parser.parse_args()
    result = json.loads(RESULT.read_text())
    if options.runs:
        for name, recipe in result["recipes"].items():
            records = RunReader(options.runs / f"{name}-{first_seed(recipe)}").metrics()
            (DOCS / "images" / f"{name}.png").write_bytes(draw(records, LIGHT)[PICTURE])
    page = replaced(PAGE.read_text(encoding="utf-8"), "recipes", block(result))
    PAGE.write_text(page, encoding="utf-8")
    print(PAGE)


def first_seed(recipe: Mapping[str, Any]) -> str:
    return next(iter(recipe["seeds"]))


def block(result: Mapping[str, Any]) -> str:
    """Table, source and pictures."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|---|---:|---|---|---|---|---|"]
    for name, recipe in result["recipes"].items():
        lines += rows(name, recipe)
    pictures = [f"![{name}: reward, step by step](images/{name}.png)" for name in result["recipes"]]
    return "\n\n".join(["\n".join(lines), source(result), *pictures])


def rows(name: str, recipe: Mapping[str, Any]) -> Iterator[str]:
    """A row for every seed and measure of a recipe."""
    for seed, run in recipe["seeds"].items():
        for number, measure in enumerate(shown(run["held_out"]["sampled"])):
            first = (name, seed, duration(run["wall_seconds"])) if number == 0 else ("", "", "")
            yield f"| {' | '.join([*first, measure.removeprefix('rewards/'), *cells(run['held_out'], measure)])} |"


def shown(measures: Mapping[str, Any]) -> list[str]:
    found = [measure for measure in MEASURES if measure in measures]
    return found[:1] if found[0] == "success" else found


def cells(held_out: Mapping[str, Any], measure: str) -> Iterator[str]:
    for kind in ("sampled", "greedy"):
        for when in ("before", "after"):
            found = held_out[kind][measure][when]
            yield f"{found['mean']:.2f} ± {found['stderr']:.2f}"


def source(result: Mapping[str, Any]) -> str:
    """What was measured on what, and what a constant answer would get."""
    recipes, where = result["recipes"], result["machine"]
    counts = ", ".join(f"{recipe['num_problems']} ({name})" for name, recipe in recipes.items())
    constant = ", ".join(
        f"{recipe['constant_answer']:.2f} ({name})" for name, recipe in recipes.items() if recipe["constant_answer"]
    )
    return (
        f"`python bench/task_recipes.py`, {where['cores']} cores of {where['cpu']}, {result['date'][:10]}. Held-out "
        f"problems: {counts}; 8 sampled answers to each and a greedy one; errors are standard errors over problems. "
        f"Who always gives the commonest answer gets {constant}."
    )


if __name__ == "__main__":
    main()
