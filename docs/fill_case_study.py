"""Writes the measured parts of docs/case-study.md: figures and completions of a run, base against trained.

python bench/base_vs_trained.py runs/case-study --output bench/results/base_vs_trained_case_study.json
python docs/fill_case_study.py runs/case-study

Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->`; the rest of the page is written by hand.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from blocks import replaced

from groupwise.runs import RunReader
from groupwise.runs.records import CompletionRecord, GroupRecord

DOCS = Path(__file__).parent
PAGE = DOCS / "case-study.md"
BASE_VS_TRAINED = DOCS.parent / "bench" / "results" / "base_vs_trained_case_study.json"
WINDOW = 10
NUM_SAMPLES, SAMPLE_CHARACTERS = 3, 160

ROWS = (
    ("reward", "reward", 1),
    ("KL to the reference, nats a token", "kl", 4),
    ("loss", "loss", 5),
    ("length, tokens", "completions/mean_length", 1),
    ("cut off at the limit, share", "completions/clipped_ratio", 2),
    ("entropy, nats a token", "entropy", 2),
)
"""Label, metric and decimals of the table of the run."""

ANSWERS = (
    ("base, sampled", "base_sampled"),
    ("trained, sampled", "trained_sampled"),
    ("base, greedy", "base_greedy"),
    ("trained, greedy", "trained_greedy"),
    ("trained and merged, plain transformers, greedy, float32", "merged_plain_greedy"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of the case study's finished run")
    reader = RunReader(parser.parse_args().run)
    page = PAGE.read_text(encoding="utf-8")
    page = replaced(page, "run", run_table(reader.metrics()))
    page = replaced(page, "completions", completions_table(reader))
    if BASE_VS_TRAINED.is_file():
        page = replaced(page, "base-vs-trained", answers_table(json.loads(BASE_VS_TRAINED.read_text())))
    PAGE.write_text(page, encoding="utf-8")
    print(PAGE)


def run_table(records: Sequence[dict[str, Any]]) -> str:
    """First and last steps of a run, each the mean of `WINDOW` steps."""
    lines = [f"| | first {WINDOW} steps | last {WINDOW} of {len(records)} steps |", "|---|---|---|"]
    for label, key, digits in ROWS:
        first, last = (mean(part, key) for part in (records[:WINDOW], records[-WINDOW:]))
        lines.append(f"| {label} | {first:.{digits}f} | {last:.{digits}f} |")
    return "\n".join(lines)


def mean(records: Sequence[dict[str, Any]], key: str) -> float:
    return fmean(record[key] for record in records if record[key] is not None)


def completions_table(reader: RunReader) -> str:
    """The median completion of a few groups, of the first and of the last step."""
    steps = reader.completion_steps()
    lines = ["| step | characters | reward | completion |", "|---|---|---|---|"]
    for step in (steps[0], steps[-1]):
        for group in reader.completions(step)[:NUM_SAMPLES]:
            chosen = median(group)
            lines.append(f"| {step} | {len(chosen['text'])} | {chosen['reward']:g} | {cell(chosen['text'])} |")
    return "\n".join(lines)


def median(group: GroupRecord) -> CompletionRecord:
    """The completion of median reward."""
    scored = [c for c in group["completions"] if c["reward"] is not None]
    return sorted(scored, key=lambda c: c["reward"] or 0.0)[len(scored) // 2]


def cell(text: str) -> str:
    """Text that a table can hold, as code."""
    short = text if len(text) <= SAMPLE_CHARACTERS else text[: SAMPLE_CHARACTERS - 1] + "…"
    return "`" + " ".join(short.replace("`", "'").replace("|", "\\|").split()) + "`"


def answers_table(result: dict[str, Any]) -> str:
    """Mean |50 - characters| on held-out prompts, with standard errors."""
    title = f"run `{result['run']}`, {result['num_prompts']} held-out prompts"
    lines = [f"| {title} | mean \\|50 - characters\\| | characters |", "|---|---|---|"]
    for label, key in ANSWERS:
        found = result[key]
        lines.append(f"| {label} | {found['mean']:.1f} ± {found['stderr']:.1f} | {found['characters']:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
