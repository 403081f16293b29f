"""Columns give back what was recorded; a thinned curve keeps its mean, its lowest and its highest value."""

from __future__ import annotations

import random

from groupwise.watch.columns import Columns


def columns(records: list[dict[str, float | None]]) -> Columns:
    made = Columns()
    for step, record in enumerate(records, 1):
        made.add({"schema_version": 2, "step": step, **record})
    return made


def test_few_steps_come_back_as_they_were() -> None:
    made = columns([{"a": 1.0, "b": None}, {"a": 2.0, "c": 5}, {"b": 3.0}])
    assert made.keys() == ["a", "b", "c"]
    assert made.curves(["a", "b", "c", "d"], 0, 99, 10) == {
        "steps": [1, 2, 3],
        "curves": {
            "a": {"mean": [1.0, 2.0, None]},
            "b": {"mean": [None, None, 3.0]},
            "c": {"mean": [None, 5.0, None]},
        },
    }
    assert (made.last("a"), made.last("b"), made.last("d")) == (2.0, 3.0, None)


def test_many_steps_keep_their_mean_and_their_ends() -> None:
    rng = random.Random(0)
    values = [rng.uniform(-1, 1) for _ in range(1000)]
    found = columns([{"a": value} for value in values]).curves(["a"], 1, 1000, 50)
    curve = found["curves"]["a"]
    assert len(found["steps"]) == 50
    assert found["steps"][-1] == 1000
    assert abs(sum(curve["mean"]) / 50 - sum(values) / 1000) < 1e-6
    assert abs(min(curve["low"]) - min(values)) < 1e-5
    assert abs(max(curve["high"]) - max(values)) < 1e-5


def test_a_stretch_is_cut_out_at_its_steps() -> None:
    found = columns([{"a": float(i)} for i in range(100)]).curves(["a"], 11, 20, 600)
    assert found["steps"] == list(range(11, 21))
    assert found["curves"]["a"]["mean"] == [float(i) for i in range(10, 20)]


def test_nothing_recorded_gives_no_curve() -> None:
    assert Columns().curves(["a"], 0, 9, 5) == {"steps": [], "curves": {}}
    assert columns([{"a": None}]).curves(["a"], 0, 9, 5) == {"steps": [1], "curves": {}}


def test_what_is_not_finite_is_not_measured() -> None:
    assert columns([{"a": float("inf")}, {"a": float("nan")}]).keys() == []
