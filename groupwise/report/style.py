"""Style of the figures: two themes, one layout, a title and a caption above each figure."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.rcsetup import cycler
from matplotlib.ticker import MaxNLocator

DPI = 144
WIDTH, HEIGHT = 7.6, 3.7
"""Inches of a picture with one panel."""


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of text, lines and areas."""

    name: str
    background: str
    text: str
    muted: str
    grid: str
    cycle: tuple[str, ...]


LIGHT = Theme(
    "light",
    background="#ffffff",
    text="#1b2330",
    muted="#667085",
    grid="#e4e7ec",
    cycle=("#2563a8", "#c2620e", "#2d8a57", "#8a4fb0", "#b3324c", "#5d6b7e"),
)
DARK = Theme(
    "dark",
    background="#161b24",
    text="#e6e9ef",
    muted="#98a2b3",
    grid="#2b3341",
    cycle=("#6ea8e8", "#f0a35e", "#68c391", "#c295e4", "#ee7f93", "#a5b1c2"),
)


@contextmanager
def styled(theme: Theme) -> Iterator[None]:
    """matplotlib in the colours of `theme`, and as it was afterwards."""
    settings = {
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "text.color": theme.text,
        "axes.labelcolor": theme.muted,
        "axes.edgecolor": theme.grid,
        "axes.facecolor": theme.background,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=theme.cycle),
        "axes.unicode_minus": True,
        "axes.formatter.useoffset": False,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "figure.facecolor": theme.background,
        "figure.dpi": DPI,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "legend.frameon": False,
        "legend.labelcolor": theme.text,
        "lines.linewidth": 2.0,
        "lines.solid_capstyle": "round",
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(
    title: str, caption: str, theme: Theme, *, heights: tuple[float, ...] = (1.0,)
) -> tuple[Figure, list[Any]]:
    """A figure with one panel for each relative height, its title and the sentence under it."""
    size = HEIGHT * (0.4 + 0.6 * sum(heights) / heights[0])
    layout = ConstrainedLayoutEngine(rect=(0.005, 0.01, 0.985, 1 - 0.66 / size))
    figure = Figure(figsize=(WIDTH, size), layout=layout)
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    figure.text(0.015, 1 - 0.12 / size, title, fontsize=13, fontweight="bold", va="top")
    figure.text(0.015, 1 - 0.39 / size, caption, fontsize=9.5, color=theme.muted, va="top")
    axes[-1].set_xlabel("step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    return figure, list(axes)


def legend(axes: Any) -> None:
    """Names above the panel, out of the way of every curve."""
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(handles), borderaxespad=0.1, handlelength=1.6
        )


def as_png(figure: Figure) -> bytes:
    """The picture as PNG bytes; the same records give the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
