"""Write the benchmark block of README.md, between `<!-- bench -->` and `<!-- /bench -->`, from the JSON results.

Usage: python bench/table.py [--check]

A result that is not there is left out. Smoke tests (`--quick`) are refused.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import common

OPEN, CLOSE = "<!-- bench -->", "<!-- /bench -->"
GIB = 2**30


def step_vs_trl(result: Mapping[str, Any]) -> list[str]:
    """Whole step against TRL: time, memory, ratios."""
    version = next(iter(result["cases"].values()))["trl"]["versions"]["trl"]
    lines = [
        f"Whole training step against TRL {version} ({result.get('dtype', 'bfloat16')} weights on both sides, "
        "same prompts, same tokens):",
        "",
        "| step | groupwise | TRL | faster | peak memory |",
        "|---|---:|---:|---:|---:|",
    ]
    for case in result["cases"].values():
        ours, theirs = case["groupwise"], case["trl"]
        lines.append(
            f"| {case['case']['title']} | {_seconds(ours)} | {_seconds(theirs)} "
            f"| {_faster(case)} | {_peak(ours)} against {_peak(theirs)} GiB |"
        )
    return lines


def engine(result: Mapping[str, Any]) -> list[str]:
    """Rollout and learner against their floors."""
    lines = [
        "Against the matrix products that cannot be avoided, measured in the same run:",
        "",
        "| part | tokens/s | floor | share |",
        "|---|---:|---:|---:|",
    ]
    for rows, found in result["rollout"].items():
        lines.append(
            f"| rollout, {rows} completions at a time | {found['tokens_per_second']:,.0f} "
            f"| {found['floor_tokens_per_second']:,.0f} | {found['share_of_floor']:.0%} |"
        )
    found = result["learner"]
    floor = found["packed_tokens"] / found["floor_seconds"]["median"]
    lines.append(
        f"| learner, {found['packed_tokens']:,} packed tokens | {found['tokens_per_second']:,.0f} "
        f"| {floor:,.0f} | {found['share_of_floor']:.0%} |"
    )
    return lines


def rollout_vs_vllm(result: Mapping[str, Any]) -> list[str]:
    """Rollout against vLLM's CPU server."""
    lines = [
        f"Rollout against vLLM's CPU server ({result['dtype']}, groups of 8, log-probs kept, no adapter):",
        "",
        "| completions at a time | groupwise | vLLM | faster |",
        "|---:|---:|---:|---:|",
    ]
    for rows, found in result["rollout"].items():
        ours, theirs = (f"{found[side]['median']:,.0f} tokens/s" for side in ("groupwise", "vllm"))
        lines.append(f"| {rows} | {ours} | {theirs} | {_faster(found)} |")
    return lines


def demo_seeds(result: Mapping[str, Any]) -> list[str]:
    """The demo, seed by seed."""
    lines = [
        f"`{result['recipe']}`, one run a seed:",
        "",
        "| seed | time | first reward | mean of the last ten steps | peak memory |",
        "|---|---:|---:|---:|---:|",
    ]
    for seed, run in result["seeds"].items():
        minutes, seconds = divmod(round(run["wall_seconds"]), 60)
        lines.append(
            f"| {seed} | {minutes}:{seconds:02d} | {run['first_reward']:.1f} | {run['last_10_reward']:.1f} "
            f"| {run['peak_bytes'] / GIB:.2f} GiB |"
        )
    return lines


def base_vs_trained(result: Mapping[str, Any]) -> list[str]:
    """Base, trained and merged model on held-out prompts."""
    rows = {
        "base, sampled": "base_sampled",
        "base, greedy": "base_greedy",
        "trained, sampled": "trained_sampled",
        "trained, greedy": "trained_greedy",
        "merged, plain transformers in float32, greedy": "merged_plain_greedy",
    }
    lines = [
        f"Mean distance from 50 characters on {result['num_prompts']} held-out prompts, with its standard error:",
        "",
        "| model | characters from 50 |",
        "|---|---:|",
    ]
    return lines + [
        f"| {name} | {result[key]['mean']:.1f} ± {result[key]['stderr']:.1f} |" for name, key in rows.items()
    ]


def negative_controls(result: Mapping[str, Any]) -> list[str]:
    """What must not learn."""
    steps = result["runs"]["as_it_is"]["num_steps"]
    names = {"as_it_is": "as it is", "shuffled_rewards": "rewards shuffled", "learning_rate_0": "learning rate 0"}
    lines = [
        f"The demo cut to {steps} steps, and what must not learn (reward gained over the untrained model, last third):",
        "",
        "| run | gain |",
        "|---|---:|",
    ]
    for key, name in names.items():
        run = result["runs"][key]
        error = "" if run["stderr"] is None else f" ± {run['stderr']:.1f}"
        lines.append(f"| {name} | {run['gain']:+.1f}{error} |")
    return lines


def resuming(result: Mapping[str, Any]) -> list[str]:
    """What a checkpoint costs, and a run that was killed."""
    saves, steps = result["checkpoint_seconds"], result["killed_after_step"]
    every = next(setting.partition("=")[2] for setting in result["settings"] if setting.startswith("save_steps="))
    same = " and ".join(name for name, equal in result["is_equal"].items() if equal)
    return [
        f"A checkpoint of the demo takes {saves['median']:.2f} s, {result['checkpoint_share']:.2%} of the run with one "
        f"every {every} steps. Killed in step {steps + 1} and resumed, it goes on after "
        f"{result['resume_seconds']:.0f} s (a fresh start, with its first evaluation, takes "
        f"{result['start_seconds']:.0f} s), with the same {same} at its end as if nothing had happened.",
    ]


SECTIONS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "step_vs_trl": step_vs_trl,
    "engine": engine,
    "rollout_vs_vllm": rollout_vs_vllm,
    "demo_seeds": demo_seeds,
    "base_vs_trained": base_vs_trained,
    "negative_controls": negative_controls,
    "resuming": resuming,
}
"""Result file -> its part of the block, in this order."""


def render(folder: Path) -> str:
    """The block's text from the results in `folder`."""
    parts = []
    for name, section in SECTIONS.items():
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        if result.get("is_quick"):
            sys.exit(f"{path} is a smoke test (--quick). Measure again without it, or delete the file.")
        parts.append("\n".join([*section(result), "", _source(result)]))
    return "\n\n".join(parts)


def _source(result: Mapping[str, Any]) -> str:
    where = result["machine"]
    return f"`{result['command']}`, {where['cores']} cores of {where['cpu']}, {result['date'][:10]}"


def _faster(found: Mapping[str, Any]) -> str:
    """The ratio of medians, and the smallest and largest of a round where there are several."""
    rounds = found["speedup_by_round"]
    spread = f" ({min(rounds):.1f} to {max(rounds):.1f})" if len(rounds) > 1 else ""
    return f"**{found['speedup']:.1f}x**{spread}"


def _seconds(side: Mapping[str, Any]) -> str:
    return f"{side['step_seconds']['median']:.2f} s"


def _peak(side: Mapping[str, Any]) -> str:
    return f"{side['peak_bytes']['median'] / GIB:.2f}"


def put(text: str, block: str) -> str:
    """`text` with `block` between the two marks."""
    if text.count(OPEN) != 1 or text.count(CLOSE) != 1:
        sys.exit(f"The file must have one {OPEN} and one {CLOSE}; the table stands between them.")
    return re.sub(f"{OPEN}.*{CLOSE}", lambda _: f"{OPEN}\n{block}\n{CLOSE}", text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=common.RESULTS)
    parser.add_argument("--file", type=Path, default=common.ROOT / "README.md")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the block is not up to date")
    arguments = parser.parse_args()
    before = arguments.file.read_text(encoding="utf-8")
    after = put(before, render(arguments.results))
    if arguments.check and after != before:
        sys.exit(f"The table in {arguments.file} is not that of bench/results. Run: python bench/table.py")
    arguments.file.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
