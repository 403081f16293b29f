"""Runs side by side: pooled by recipe, compared where the shortest ends, and no verdict without seeds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from groupwise.errors import ConfigError
from groupwise.report.comparison import compare, table
from groupwise.report.comparison_figure import picture
from groupwise.runs import RunReader, RunWriter, create


def write(
    folder: Path, *, gain: float, seed: int, num_steps: int = 30, step_time: float = 2.0, **recipe: Any
) -> RunReader:
    dice = random.Random(seed)
    with RunWriter(create(folder)) as writer:
        writer.config({"recipe": {"num_generations": 8, "seed": seed, "output_dir": str(folder), **recipe}})
        for step in range(1, num_steps + 1):
            record = {"step": step, "reward": gain * step + dice.gauss(0, 0.01), "step_time": step_time}
            if step in (1, num_steps):
                record |= {"eval_reward": gain * step, "eval_reward_stderr": 0.02}
            writer.step({**record, "groups_used": 4, "groups_dropped": 0})
    return RunReader(folder)


@pytest.fixture
def two_arms(tmp_path) -> Sequence[RunReader]:
    fast = [write(tmp_path / f"fast-{seed}", gain=0.02, seed=seed, learning_rate=1e-4) for seed in (1, 2, 3)]
    slow = [write(tmp_path / f"slow-{seed}", gain=0.001, seed=seed, learning_rate=1e-6) for seed in (1, 2)]
    return [*fast, *slow]


def test_seeds_of_one_recipe_are_pooled(two_arms):
    compared = compare(two_arms)
    assert [(arm.name, len(arm.runs)) for arm in compared.arms] == [("fast", 3), ("slow", 2)]
    assert compared.differences == (("learning_rate", ("0.0001", "1e-06")),)
    reward = compared.arms[0].reward(compared.place)
    assert reward.mean == pytest.approx(0.02 * 25.5, abs=0.01)
    assert reward.spread < 0.01


def test_the_table_says_where_and_what_differs(two_arms):
    lines = table(compare(two_arms))
    assert lines[0] == "After the same samples: 960 completions, where the shortest run ends."
    assert any(line.startswith("slow is below fast in its held-out reward (sampled): -0.570") for line in lines)
    assert lines[-1] == "  learning_rate: 0.0001 (fast), 1e-06 (slow)"


def test_one_seed_each_carries_no_verdict(two_arms):
    lines = table(compare([two_arms[0], two_arms[3]]))
    assert any(line.startswith("No verdict") for line in lines)


def test_equal_recipes_are_one_arm(two_arms):
    compared = compare(two_arms[:3])
    assert len(compared.arms) == 1
    assert "All of these runs have one recipe: they differ in their seed." in table(compared)


def test_the_shortest_run_decides_where(tmp_path):
    long = write(tmp_path / "long", gain=0.01, seed=1, num_steps=40, step_time=6.0, beta=0.1)
    short = write(tmp_path / "short", gain=0.01, seed=1, num_steps=10, step_time=6.0, beta=0.2)
    assert compare([long, short]).place == 10 * 4 * 8
    by_minutes = compare([long, short], "minutes")
    assert by_minutes.place == pytest.approx(1.0)
    assert by_minutes.arms[0].reward(by_minutes.place).mean == pytest.approx(0.09, abs=0.02)


def test_the_picture_is_a_png(two_arms):
    assert picture(compare(two_arms)).startswith(b"\x89PNG")
    assert picture(compare(two_arms, "minutes")).startswith(b"\x89PNG")


def test_what_cannot_be_compared_is_an_error(tmp_path, two_arms):
    with pytest.raises(ConfigError, match="expected two or more"):
        compare(two_arms[:1])
    empty = create(tmp_path / "empty")
    with RunWriter(empty) as writer:
        writer.config({"recipe": {}})
    with pytest.raises(ConfigError, match="no finished step to compare"):
        compare([two_arms[0], RunReader(empty)])
