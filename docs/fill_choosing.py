"""Writes the measured parts of docs/choosing.md and draws its pictures, from bench/results/choosing.json.

python docs/fill_choosing.py

Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->`, one block a study that was measured; the rest of the
page is written by hand. With `--to FOLDER` page and pictures go there and the project's own stay as they are, which is
the only place for a smoke test.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from blocks import replaced
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from groupwise.report.style import LIGHT, as_png, legend, new_figure, styled
from groupwise.runs.series import Series
from groupwise.runs.text import number

DOCS = Path(__file__).parent
RESULT = DOCS.parent / "bench" / "results" / "choosing.json"
PAGE = "choosing.md"
BASELINE, AS_IT_IS = "baseline", " (as it is)"
WINDOW = 5
GIB = 2**30
LEAST_KL = 1e-4
"""Where the axis of the KL begins: a policy nearer to its reference has not moved."""

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """What a study is called on the page, and what is drawn below its distance."""

    title: str
    knob: str
    below: str | None = None


STUDIES = {
    "group-size": Study("Group size", "group size"),
    "beta": Study("Weight of the KL", "beta", "kl"),
    "learning-rate": Study("Learning rate", "learning rate", "kl"),
    "scale": Study("Divided by the deviation, or not", "scale", "kl"),
    "reward": Study("What is rewarded", "reward", "hit"),
    "seed": Study("Nothing but the seed", "seed"),
}

HEAD = (
    "last {steps} steps: characters from 50",
    "40 to 60 characters",
    "within {close:.0f} after",
    "held out: before, after",
    "KL",
    "no signal",
    "a step",
    "peak memory",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--to", type=Path, default=DOCS, help="folder that page and images/ are written to")
    options = parser.parse_args()
    result = json.loads(options.result.read_text())
    if result["is_quick"] and options.to.resolve() == DOCS.resolve():
        sys.exit(f"{options.result} is a smoke test (--quick). Measure without it, or write elsewhere with --to.")
    page = (DOCS / PAGE).read_text(encoding="utf-8")
    images = options.to / "images"
    images.mkdir(parents=True, exist_ok=True)
    for name in measured(result):
        page = replaced(page, name, block(result, name))
        (images / f"choosing-{name}.png").write_bytes(drawn(result, name))
    page = replaced(page, "source", source(result))
    (options.to / PAGE).write_text(page, encoding="utf-8")
    print(options.to / PAGE)


def measured(result: Mapping[str, Any]) -> list[str]:
    """The studies of which every run is there."""
    return [name for name in STUDIES if all(key in result["runs"] for key in result["studies"][name].values())]


def runs_of(result: Mapping[str, Any], study: str) -> dict[str, Run]:
    """What each run of a study is called -> the run."""
    return {shown(label, key): result["runs"][key] for label, key in result["studies"][study].items()}


def shown(label: str, key: str) -> str:
    return label + AS_IT_IS if key == BASELINE else label


def block(result: Mapping[str, Any], name: str) -> str:
    """Picture, table and what they say."""
    runs = runs_of(result, name)
    study = STUDIES[name]
    parts = [
        f"![{study.title}: characters from 50, step by step](images/choosing-{name}.png)",
        table(study.knob, runs, result["close"]),
        verdict(runs, None if name == "seed" else luck(result)),
        commands(result, name),
    ]
    return "\n\n".join(part for part in parts if part)


def table(knob: str, runs: Mapping[str, Run], close: float) -> str:
    steps = next(iter(runs.values()))["last_steps"]
    head = [title.format(steps=steps, close=close) for title in HEAD]
    lines = [f"| {' | '.join([knob, *head])} |", "|---|" + "---:|" * len(head)]
    lines += [f"| {' | '.join([label, *cells(run)])} |" for label, run in runs.items()]
    return "\n".join(lines)


def cells(run: Run) -> Iterator[str]:
    """The figures of a run, in the order of `HEAD`."""
    distance, held_out = run["last_distance"], run["held_out"]
    yield f"{-distance['mean']:.1f} ± {distance['stderr']:.1f}"
    yield f"{run['last_hit']['mean']:.0%}"
    yield "not reached" if run["steps_until_close"] is None else f"{run['steps_until_close']} steps"
    yield "-" if held_out is None else f"{-held_out['before']:.0f}, {-held_out['after']:.0f}"
    yield number(run["last_kl"], 2)
    yield f"{run['no_signal']:.0%}"
    yield f"{step_seconds(run):.1f} s"
    yield f"{run['peak_bytes'] / GIB:.2f} GiB"


def step_seconds(run: Run) -> float:
    """Median over the steps: what else runs on the machine for a while does not move it."""
    return median(run["curves"]["seconds"])


def distance(run: Run) -> float:
    """Characters from the target at the end."""
    return -float(run["last_distance"]["mean"])


def luck(result: Mapping[str, Any]) -> float | None:
    """How far apart runs end that differ in their seed alone; None where that was not measured."""
    if "seed" not in measured(result):
        return None
    found = [distance(run) for run in runs_of(result, "seed").values()]
    return max(found) - min(found)


def verdict(runs: Mapping[str, Run], by_luck: float | None) -> str:
    """Best and worst of the table in words, and whether a seed alone makes as much of a difference."""
    best, worst = min(runs, key=lambda label: distance(runs[label])), max(runs, key=lambda label: distance(runs[label]))
    apart = distance(runs[worst]) - distance(runs[best])
    says = (
        f"Nearest: **{best}**, {distance(runs[best]):.1f} characters off at {step_seconds(runs[best]):.1f} s a step. "
        f"Farthest: **{worst}**, {distance(runs[worst]):.1f} at {step_seconds(runs[worst]):.1f} s."
    )
    if by_luck is None:
        return says
    than = "more than" if apart > by_luck else "no more than"
    return f"{says} They are {apart:.1f} apart: {than} seeds alone make ({by_luck:.1f})."


def commands(result: Mapping[str, Any], name: str) -> str:
    """One run of the study by hand, for each label."""
    lines = []
    for label, key in result["studies"][name].items():
        changes = "" if key == BASELINE else "".join(f" --set {setting}" for setting in key.split(" "))
        lines.append(f"groupwise train recipes/{result['recipe']}{changes}  # {shown(label, key)}")
    return "\n".join(["```", *lines, "```"])


def source(result: Mapping[str, Any]) -> str:
    """What the figures of the page come from."""
    runs = result["runs"].values()
    completions = sorted({run["num_completions"] for run in runs})
    minutes = sum(run["seconds_with_loading"] for run in runs) / 60
    where = result["machine"]
    return (
        f"`python bench/choosing.py`, {len(runs)} runs of {' or '.join(f'{n:,}' for n in completions)} completions, "
        f"{minutes:.0f} minutes with loading and evaluation, {where['cores']} cores of {where['cpu']}, "
        f"{result['date'][:10]}"
    )


def drawn(result: Mapping[str, Any], name: str) -> bytes:
    """The picture of a study as PNG."""
    with styled(LIGHT):
        return as_png(picture(runs_of(result, name), STUDIES[name]))


def picture(runs: Mapping[str, Run], study: Study) -> Figure:
    """Steps as faint dots, their moving average as lines; KL or hits below."""
    says = f"Characters from the target, mean of the last {WINDOW} steps; dots are steps. Lower is better."
    figure, axes = new_figure(study.title, says, LIGHT, heights=(1.0, 0.55) if study.below else (1.0,))
    highest = 0.0
    for (label, run), color in zip(runs.items(), colors(runs), strict=True):
        off = series([None if value is None else -value for value in run["curves"]["distance"]])
        highest = max(highest, *off.values)
        axes[0].scatter(off.steps, off.values, s=12, color=color, alpha=0.3, linewidths=0)
        average = off.averaged(WINDOW)
        axes[0].plot(average.steps, average.values, color=color, label=label)
        if study.below:
            draw_below(axes[1], series(run["curves"][study.below]), study.below, color, len(off.steps))
    axes[0].set_ylabel("characters from 50")
    axes[0].set_ylim(0, 1.05 * highest)
    for panel in axes:
        panel.margins(x=0.01)
    if study.below:
        label_below(axes[1], study.below)
    legend(axes[0])
    return figure


def colors(runs: Mapping[str, Run]) -> list[str]:
    """A colour a run; the run with nothing changed has the same in every picture."""
    first, *others = LIGHT.cycle
    rest = iter(others)
    return [first if label.endswith(AS_IT_IS) else next(rest) for label in runs]


def draw_below(panel: Any, found: Series, which: str, color: str, num_steps: int) -> None:
    found = found if which == "kl" else found.averaged(WINDOW)
    marker = "o" if len(found.steps) < num_steps else None  # measured now and then
    panel.plot(found.steps, found.values, color=color, linewidth=1.6, marker=marker, markersize=4)


def label_below(panel: Any, which: str) -> None:
    if which == "kl":
        panel.set_yscale("log")
        panel.set_ylim(bottom=LEAST_KL)
        panel.set_ylabel("KL, nats / token")
    else:
        panel.set_ylim(bottom=0)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.set_ylabel("40 to 60")


def series(values: Sequence[float | None]) -> Series:
    """One value a step, where it was measured."""
    points = [(step, value) for step, value in enumerate(values, start=1) if value is not None]
    return Series(tuple(step for step, _ in points), tuple(value for _, value in points))


if __name__ == "__main__":
    main()
