"""Tests of groupwise.runs.text: what a terminal gets is exact in width and harmless in content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupwise.runs.text import clean, curve, duration, moving_average, number, resample, span_of, sparkline, split

VALUES = st.lists(st.none() | st.floats(-1e6, 1e6), max_size=60)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (0.0, "0.00"),
        (-291.06, "-291"),
        (0.01319, "0.0132"),
        (5e-6, "5.00e-6"),
        (-12.345, "-12.3"),
        (96000, "96,000"),
        (40, "40"),
        (1234.5, "1,234"),
        (2.5e9, "2.50e9"),
        (0.5, "0.500"),
    ],
)
def test_numbers_have_three_significant_digits_and_counts_all(value: float | None, expected: str) -> None:
    assert number(value) == expected


def test_durations() -> None:
    assert [duration(s) for s in (None, 0, 59.6, 3599, 3661, float("inf"))] == [
        "-",
        "0:00",
        "1:00",
        "59:59",
        "1:01:01",
        "-",
    ]


def test_clean_text_cannot_steer_a_terminal() -> None:
    assert clean("a\n\tb \x1b[31mred\x1b[0m \x1b]0;title\x07x\x1b[2J\x9b\u202eend") == "a b red xend"


@given(st.text())
def test_clean_is_one_line_and_stays_clean(text: str) -> None:
    cleaned = clean(text)
    assert cleaned == clean(cleaned)
    assert cleaned.splitlines() in ([], [cleaned])


def test_moving_average_is_the_mean_of_the_last_measured_values() -> None:
    assert moving_average([None, 1.0, None, 3.0, 8.0], 2) == [None, 1.0, 1.0, 2.0, 5.5]


@given(VALUES, st.integers(1, 20))
def test_resampling_keeps_the_number_of_points_and_the_span(values: list[float | None], width: int) -> None:
    points = resample(values, width)
    assert len(points) == min(len(values), width)
    (low, high), (lowest, highest) = span_of(points), span_of(values)
    if len({v for v in values if v is not None}) > 1 and len({p for p in points if p is not None}) > 1:
        assert lowest <= low
        assert high <= highest


@given(VALUES, st.integers(1, 20), st.integers(1, 6), st.booleans())
def test_curves_fill_their_box(values: list[float | None], width: int, height: int, is_joined: bool) -> None:
    rows = curve(values, width, height, span=(-10.0, 10.0), is_joined=is_joined)
    assert [len(row) for row in rows] == [width] * height
    assert all(c == " " or 0x2800 < ord(c) <= 0x28FF for row in rows for c in row)
    assert any(row.strip() for row in rows) == any(v is not None for v in values)


def test_a_rising_curve_runs_from_the_lower_left_to_the_upper_right() -> None:
    rows = curve([0.0, 1.0, 2.0, 3.0], 2, 1, span=(0.0, 3.0), is_joined=False)
    assert rows == ["⡠⠊"]


@given(VALUES, st.integers(1, 20))
def test_sparklines_have_one_bar_a_point(values: list[float | None], width: int) -> None:
    assert len(sparkline(values, width)) == min(len(values), width)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=5), st.integers(0, 200))
def test_a_split_bar_is_full_and_fair(parts: list[float], width: int) -> None:
    columns = split(parts, width)
    total = sum(parts)
    if total == 0:
        assert columns == [0] * len(parts)
        return
    assert sum(columns) == width
    assert all(abs(n - part * width / total) < 1 + 1e-6 for n, part in zip(columns, parts, strict=True))
