"""The picture of a comparison: the reward of each arm over samples or minutes, with the spread of its seeds."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Sequence
from itertools import cycle

from matplotlib.figure import Figure

from groupwise.report.comparison import Arm, Compared
from groupwise.report.style import LIGHT, Theme, as_png, new_figure, styled

POINTS = 200
"""Of a pooled curve."""
MAX_NAME, MOST_NAMED = 40, 12
"""Characters of a name, and arms that the picture names: the table has them all."""


def picture(compared: Compared, theme: Theme = LIGHT) -> bytes:
    """The comparison as a PNG."""
    with styled(theme):
        return as_png(_draw(compared, theme))


def _draw(compared: Compared, theme: Theme) -> Figure:
    caption = (
        "Mean of the last 10 steps; the band is one standard deviation over seeds. Dotted: where the table compares."
    )
    figure, (panel,) = new_figure(f"Reward over {compared.by}", caption, theme)
    for arm, color in zip(compared.arms, cycle(theme.cycle), strict=False):
        for run in arm.runs:
            panel.plot(*run.curve, color=color, alpha=0.35, linewidth=0.9)
        places, means, spreads = _pooled_curve(arm)
        panel.plot(places, means, color=color, label=f"{_shortened(arm.name)} ({len(arm.runs)})")
        low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
        panel.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)
    panel.axvline(compared.place, color=theme.muted, linewidth=1, linestyle=":")
    panel.set_ylabel("reward")
    panel.set_xlabel("completions sampled" if compared.by == "samples" else "minutes")
    if len(compared.arms) <= MOST_NAMED:
        panel.legend(loc="best")
    return figure


def _pooled_curve(arm: Arm) -> tuple[list[float], list[float], list[float]]:
    """Places, mean over seeds, standard deviation over seeds, as far as every seed has come."""
    curves = [run.curve for run in arm.runs if run.curve[0]]
    if not curves:
        return [], [], []
    begin, end = max(places[0] for places, _ in curves), min(places[-1] for places, _ in curves)
    places = [begin + (end - begin) * i / (POINTS - 1) for i in range(POINTS)]
    columns = list(zip(*(_interpolated(curve, places) for curve in curves), strict=True))
    spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in columns]
    return places, [statistics.fmean(values) for values in columns], spreads


def _interpolated(curve: tuple[list[float], list[float]], places: Sequence[float]) -> list[float]:
    """The values of a curve at places between its first and its last point."""
    xs, ys = curve
    found = []
    for place in places:
        i = min(max(bisect.bisect_left(xs, place), 1), len(xs) - 1) if len(xs) > 1 else 0
        if i == 0 or xs[i] == xs[i - 1]:
            found.append(ys[i])
            continue
        part = min(max((place - xs[i - 1]) / (xs[i] - xs[i - 1]), 0.0), 1.0)
        found.append(ys[i - 1] + part * (ys[i] - ys[i - 1]))
    return found


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]} …"
