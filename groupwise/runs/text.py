"""Numbers and text as a terminal shows them: plain strings, nothing imported."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Sequence

Span = tuple[float, float]
"""Lowest and highest value of an axis; never equal."""

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?", re.DOTALL)
"""Terminal sequences: colours, cursor moves, titles."""

_BLOCKS = "▁▂▃▄▅▆▇█"
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bit of each dot of a braille cell, by row from the top and column."""


def number(value: float | None, digits: int = 3) -> str:
    """A number with that many significant digits (counts in full); '-' for one that was not measured."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    value = value or 0.0  # no minus sign before a zero
    size = abs(value)
    if size != 0 and (size < 1e-3 or size >= 1e7):
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    before_point = math.floor(math.log10(size)) + 1 if size else 1
    return f"{value:,.{max(0, digits - before_point)}f}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}%"


def duration(seconds: float | None) -> str:
    """1:02:03, or 2:03 under an hour; '-' when unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def clean(text: str) -> str:
    """One line that no terminal can misread: control and invisible characters out, white space folded."""
    spaced = (" " if c.isspace() else c for c in _ESCAPES.sub("", text))
    visible = (c for c in spaced if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))
    return " ".join("".join(visible).split())


def moving_average(values: Sequence[float | None], window: int) -> list[float | None]:
    """Mean of the last `window` measured values up to each point (fewer at the start); None before the first."""
    averages: list[float | None] = []
    recent: list[float] = []
    for value in values:
        if value is not None:
            recent = [*recent[-(window - 1) :], value] if window > 1 else [value]
        averages.append(math.fsum(recent) / len(recent) if recent else None)
    return averages


def resample(values: Sequence[float | None], width: int) -> list[float | None]:
    """At most `width` points: each the mean of what falls into it."""
    if len(values) <= width:
        return list(values)
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    return [_mean(values[a:b]) for a, b in itertools.pairwise(edges)]


def _mean(values: Sequence[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return math.fsum(measured) / len(measured) if measured else None


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last values as bars of eight heights; a space where nothing was measured."""
    points = resample(values, width)
    low, high = span_of(points)
    return "".join(" " if v is None else _BLOCKS[round(7 * (v - low) / (high - low))] for v in points)


def curve(values: Sequence[float | None], width: int, height: int, *, span: Span, is_joined: bool) -> list[str]:
    """Points in braille dots, two by four to a character, joined or not; the first string is the top.

    What lies outside `span` is drawn on its edge.
    """
    columns, rows = 2 * width, 4 * height
    points = resample(values, columns)
    low, high = span
    cells = [[0] * width for _ in range(height)]
    step = (columns - 1) / max(1, len(points) - 1)
    previous: tuple[int, int] | None = None
    for i, value in enumerate(points):
        if value is None:
            previous = None
            continue
        depth = min(1.0, max(0.0, (high - value) / (high - low)))
        dot = (round(i * step), round((rows - 1) * depth))
        for x, y in _line(previous if previous and is_joined else dot, dot):
            cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
        previous = dot
    return ["".join(chr(_BRAILLE + cell) if cell else " " for cell in row) for row in cells]


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots from one point to the next."""
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (round(start[0] + (end[0] - start[0]) * i / length), round(start[1] + (end[1] - start[1]) * i / length))
        for i in range(length + 1)
    ]


def span_of(points: Sequence[float | None]) -> Span:
    """Lowest and highest measured value, never equal: a flat line lies in the middle."""
    measured = [point for point in points if point is not None] or [0.0]
    low, high = min(measured), max(measured)
    margin = max(abs(high), 1.0) * 0.05 if high == low else 0.0
    return low - margin, high + margin


def split(parts: Sequence[float], width: int) -> list[int]:
    """Columns for each part of a bar, in proportion (largest remainder), `width` in all; all 0 for nothing."""
    total = math.fsum(parts)
    if total <= 0 or width <= 0:
        return [0] * len(parts)
    exact = [part * width / total for part in parts]
    columns = [int(share) for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: columns[i] - exact[i])
    for i in by_remainder[: width - sum(columns)]:
        columns[i] += 1
    return columns
