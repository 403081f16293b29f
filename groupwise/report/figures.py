"""The curves of a run. Each function draws one picture from the records, or returns None when nothing was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from groupwise.report.history import PARTS
from groupwise.report.style import Theme, legend, new_figure
from groupwise.runs.metrics import held_out_rewards
from groupwise.runs.series import Record, Series, function_names, series

Draw = Callable[[Sequence[Record], Theme], Figure | None]

WINDOW = 10
MAX_FUNCTIONS = 6


def reward(records: Sequence[Record], theme: Theme) -> Figure | None:
    found = series(records, "reward")
    if not found:
        return None
    names = function_names(records)
    shown = names[:MAX_FUNCTIONS] if len(names) > 1 else []
    caption = "The curve to read: it rises while the model learns."
    figure, axes = new_figure("Reward", caption, theme, heights=(1.0, *[0.38] * len(shown)))
    _noisy(axes[0], found, theme.cycle[0], "reward of a step")
    axes[0].set_ylabel("reward")
    for name, panel, color in zip(shown, axes[1:], theme.cycle[1:] + theme.cycle[:1], strict=False):
        _noisy(panel, series(records, f"rewards/{name}/mean"), color)
        panel.set_title(_shortened(name), loc="left", fontsize=9.5, color=color, pad=2, parse_math=False)
    legend(axes[0])
    return figure


def kl(records: Sequence[Record], theme: Theme) -> Figure | None:
    distance, loss = series(records, "kl"), series(records, "loss")
    if not distance and not loss:
        return None
    weighted = _weighted_kl(records)
    if not distance:
        figure, (panel,) = new_figure("Loss", "No measure of progress: read the reward.", theme)
        _plain(panel, loss, theme.cycle[1], "loss")
        panel.set_ylabel("loss")
        return figure
    title = "KL and loss" if loss else "KL to the reference"
    caption = (
        "The loss starts at 0 and rises with β × KL: no measure of progress." if weighted else "How far it has moved."
    )
    figure, axes = new_figure(title, caption, theme, heights=(1.0, 0.8) if loss else (1.0,))
    _plain(axes[0], distance, theme.cycle[0], "KL to the reference")
    axes[0].set_ylabel("nats / token")
    legend(axes[0])
    if loss:
        _plain(axes[1], loss, theme.cycle[1], "loss")
        if weighted:
            axes[1].plot(weighted.steps, weighted.values, color=theme.text, linewidth=1.1, linestyle=(0, (3, 2)))
            axes[1].plot([], [], color=theme.text, linewidth=1.1, linestyle=(0, (3, 2)), label="β × KL")
        axes[1].set_ylabel("loss")
        legend(axes[1])
    return figure


def length(records: Sequence[Record], theme: Theme) -> Figure | None:
    mean = series(records, "completions/mean_length")
    if not mean:
        return None
    cut = series(records, "completions/clipped_ratio")
    caption = "Tokens of a completion: mean, shortest and longest"
    caption += "; below, the share cut off at the limit." if cut else "."
    figure, axes = new_figure("Completion length", caption, theme, heights=(1.0, 0.35) if cut else (1.0,))
    low, high = series(records, "completions/min_length"), series(records, "completions/max_length")
    if low.steps == high.steps == mean.steps:
        axes[0].fill_between(mean.steps, low.values, high.values, color=theme.cycle[2], alpha=0.18, linewidth=0)
        axes[0].fill_between([], [], [], color=theme.cycle[2], alpha=0.18, label="shortest to longest")
    _plain(axes[0], mean, theme.cycle[2], "mean")
    axes[0].set_ylabel("tokens")
    axes[0].set_ylim(bottom=0)
    legend(axes[0])
    if cut:
        _share(axes[1], cut, theme.cycle[4])
        axes[1].set_ylabel("cut off")
    return figure


def entropy(records: Sequence[Record], theme: Theme) -> Figure | None:
    found = series(records, "entropy")
    if not found:
        return None
    caption = "What is left to explore: a slow drift is healthy, a collapse toward 0 is not."
    figure, (panel,) = new_figure("Entropy of the policy", caption, theme)
    _noisy(panel, found, theme.cycle[3], "entropy of a step")
    panel.set_ylabel("nats / token")
    legend(panel)
    return figure


def gradient(records: Sequence[Record], theme: Theme) -> Figure | None:
    norm, rate = series(records, "grad_norm"), series(records, "learning_rate")
    if not norm:
        return None
    caption = "Before clipping; spikes far above the rest mean trouble."
    figure, axes = new_figure("Gradient norm", caption, theme, heights=(1.0, 0.35) if rate else (1.0,))
    _plain(axes[0], norm, theme.cycle[5], "gradient norm")
    positive = [value for value in norm.values if value > 0]
    if positive and max(positive) > 50 * min(positive):
        axes[0].set_yscale("log")
    axes[0].set_ylabel("norm")
    if rate:
        _plain(axes[1], rate, theme.cycle[0])
        axes[1].set_ylabel("learning rate")
        axes[1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes[1].set_ylim(bottom=0)
    return figure


def time_split(records: Sequence[Record], theme: Theme) -> Figure | None:
    rows = [r for r in records if any(r.get(f"time/{part}") is not None for part in PARTS)]
    if not rows:
        return None
    steps = [int(row["step"]) for row in rows]
    seconds = [[float(row.get(f"time/{part}") or 0.0) for row in rows] for part in PARTS]
    figure, (panel,) = new_figure("Where the time goes", "Seconds of each step.", theme)
    colors = (theme.cycle[0], theme.cycle[3], theme.cycle[2], theme.cycle[5])
    if len(steps) == 1:
        bottom = 0.0
        for part, (value,), color in zip(PARTS, seconds, colors, strict=True):
            panel.bar(steps, value, bottom=bottom, color=color, width=0.3, label=part)
            bottom += value
        panel.set_xlim(steps[0] - 1, steps[0] + 1)
    else:
        panel.stackplot(steps, seconds, colors=colors, labels=PARTS, linewidth=0, alpha=0.9)
        panel.margins(x=0.01)
    panel.set_ylabel("seconds")
    legend(panel)
    return figure


def evaluation(records: Sequence[Record], theme: Theme) -> Figure | None:
    rewards = held_out_rewards(key for record in records for key in record)
    lines = [
        (key, label, color)
        for (label, key), color in zip(rewards, cycle(theme.cycle), strict=False)
        if series(records, key)
    ]
    if not lines:
        return None
    caption = "Problems it was not trained on, with one standard error up and down."
    figure, (panel,) = new_figure("Held-out reward", caption, theme)
    trained = series(records, "reward").averaged(WINDOW)
    panel.plot(trained.steps, trained.values, color=theme.muted, alpha=0.6, linewidth=1.2, label="training")
    for key, label, color in lines:
        rows = [record for record in records if record.get(key) is not None]
        if rows:
            steps, means = [int(r["step"]) for r in rows], [float(r[key]) for r in rows]
            errors = [float(r.get(f"{key}_stderr") or 0.0) for r in rows]
            panel.errorbar(steps, means, yerr=errors, color=color, label=label, marker="o", markersize=5, capsize=3)
    panel.set_ylabel("reward")
    legend(panel)
    return figure


FIGURES: dict[str, Draw] = {
    "reward": reward,
    "kl-and-loss": kl,
    "length": length,
    "evaluation": evaluation,
    "entropy": entropy,
    "gradient": gradient,
    "time": time_split,
}
"""File name without its end -> the function that draws it, in the order of the report."""


def _noisy(panel: Any, found: Series, color: str, label: str | None = None) -> None:
    """Every step as a faint dot, the moving average as a line."""
    size = 18 if len(found.steps) < 200 else 6
    panel.scatter(found.steps, found.values, s=size, color=color, alpha=0.45, linewidths=0, label=label)
    if len(found.steps) > 2:
        average = found.averaged(WINDOW)
        panel.plot(
            average.steps, average.values, color=color, label=f"mean of the last {WINDOW} steps" if label else None
        )
    _margins(panel, found)


def _plain(panel: Any, found: Series, color: str, label: str | None = None) -> None:
    marker = "o" if len(found.steps) < 3 else None
    panel.plot(found.steps, found.values, color=color, linewidth=1.6, marker=marker, markersize=5, label=label)
    _margins(panel, found)


def _share(panel: Any, found: Series, color: str) -> None:
    panel.fill_between(found.steps, found.values, color=color, alpha=0.3, linewidth=0)
    _plain(panel, found, color)
    panel.set_ylim(0, 1.04)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _margins(panel: Any, found: Series) -> None:
    panel.margins(x=0.01)
    if len(found.steps) == 1:
        panel.set_xlim(found.steps[0] - 1, found.steps[0] + 1)


def _weighted_kl(records: Sequence[Record]) -> Series:
    """beta x KL where both are known and beta is not 0."""
    rows = [{"step": r["step"], "x": r["kl"] * r["beta"]} for r in records if r.get("kl") is not None and r.get("beta")]
    return series(rows, "x")


def _shortened(name: str, limit: int = 60) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
