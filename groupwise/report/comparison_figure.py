"""The picture of a comparison: the reward of each arm over samples or minutes, with the spread of its seeds."""

from __future__ import annotations

import statistics
from itertools import cycle

from matplotlib.figure import Figure

from groupwise.report.comparison import POINTS, Arm, Compared
from groupwise.report.style import LIGHT, Theme, as_png, legend, new_figure, styled


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
            curve = run.curve(run.at)
            panel.plot(
                run.at, [float("nan") if v is None else v for v in curve], color=color, alpha=0.35, linewidth=0.9
            )
        places, means, spreads = _pooled_curve(arm)
        panel.plot(places, means, color=color, label=f"{arm.name} ({len(arm.runs)})")
        low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
        panel.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)
    panel.axvline(compared.place, color=theme.muted, linewidth=1, linestyle=":")
    panel.set_ylabel("reward")
    panel.set_xlabel("completions sampled" if compared.by == "samples" else "minutes")
    legend(panel)
    return figure


def _pooled_curve(arm: Arm) -> tuple[list[float], list[float], list[float]]:
    """Places, mean over seeds, standard deviation over seeds, as far as every seed has come."""
    begin, end = max(run.at[0] for run in arm.runs), min(run.end for run in arm.runs)
    places = [begin + (end - begin) * i / (POINTS - 1) for i in range(POINTS)]
    rows = zip(places, *(run.curve(places) for run in arm.runs), strict=True)
    kept = [(place, [v for v in values if v is not None]) for place, *values in rows]
    kept = [(place, values) for place, values in kept if len(values) == len(arm.runs)]
    spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in kept]
    return [place for place, _ in kept], [statistics.fmean(values) for _, values in kept], spreads
