"""Writes the measured part of docs/agents.md and draws its pictures, from bench/results/agents.json.

python docs/fill_agents.py --runs bench/.work/agents

`--runs` is where bench/agents.py left the runs; without it the pictures stay as they are. Replaces what stands between
`<!-- recipes -->` and `<!-- /recipes -->`; the rest of the page is written by hand.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blocks import replaced
from fill_tasks import cells

from groupwise.report.style import LIGHT
from groupwise.report.write import draw
from groupwise.runs import RunReader
from groupwise.runs.text import duration

DOCS = Path(__file__).parent
PAGE = DOCS / "agents.md"
RESULT = DOCS.parent / "bench" / "results" / "agents.json"
PICTURE = "reward"
MAIN = "main"

HEAD = ("recipe", "trained", "seed", "steps", "time", "success, sampled: before", "after", "greedy: before", "after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder with a run for every variant, called RECIPE-VARIANT-SEED")
    options = parser.parse_args()
    result = json.loads(RESULT.read_text())
    if options.runs:
        for name, recipe in result["recipes"].items():
            seed = next(iter(recipe["variants"][MAIN]))
            records = RunReader(options.runs / f"{name}-{MAIN}-{seed}").metrics()
            (DOCS / "images" / f"{name}.png").write_bytes(draw(records, LIGHT)[PICTURE])
    page = replaced(PAGE.read_text(encoding="utf-8"), "recipes", block(result))
    PAGE.write_text(page, encoding="utf-8")
    print(PAGE)


def block(result: Mapping[str, Any]) -> str:
    """Table, source and pictures."""
    lines = [f"| {' | '.join(HEAD)} |", "|---|---|---|---:|---:|---|---|---|---|"]
    for name, recipe in result["recipes"].items():
        lines += rows(name, recipe["variants"])
    pictures = [f"![{name}: reward, step by step](images/{name}.png)" for name in result["recipes"]]
    return "\n\n".join(["\n".join(lines), source(result), *pictures])


def rows(name: str, variants: Mapping[str, Any]) -> Iterator[str]:
    """A row for every run of a recipe."""
    for label, seeds in variants.items():
        for seed, run in seeds.items():
            first = (name, label, seed, str(run["num_steps"]), duration(run["wall_seconds"]))
            yield f"| {' | '.join([*first, *cells(run['held_out'], 'success')])} |"


def source(result: Mapping[str, Any]) -> str:
    """What was measured on what."""
    where = result["machine"]
    counts = ", ".join(f"{recipe['num_problems']} ({name})" for name, recipe in result["recipes"].items())
    return (
        f"`python bench/agents.py`, {where['cores']} cores of {where['cpu']}, {result['date'][:10]}. "
        f"Problems: {counts}; 8 sampled completions of each and a greedy one; errors are standard errors over problems."
    )


if __name__ == "__main__":
    main()
