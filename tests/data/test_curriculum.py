"""Rows are drawn by their weight and nothing is ever stuck; pools and levels move only with good reason."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupwise.data import Order
from groupwise.data.curriculum import Seen, successes
from groupwise.data.levels import LevelRules, Levels, check_levels
from groupwise.data.pools import PoolRules, Pools
from groupwise.errors import DataError
from groupwise.types import Problem, ScoredGroup


class Fixed(Pools):
    """Weights that never change."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__(range(len(weights)), PoolRules())
        self.weights = weights

    def weight(self, row: int) -> float:
        return self.weights[row]


def steps_of(order: Order, num: int) -> list[list[int]]:
    return [[draw.row for draw in order.draw()] for _ in range(num)]


def visit(pools: Pools, *rates: float, problem: int = 0) -> list[str]:
    """The problem's pool after each visit."""
    found = []
    for rate in rates:
        pools.observe([Seen(problem, rate)])
        found.append(pools.pool(problem))
    return found


@given(
    st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=3, max_size=9),
    st.integers(1, 3),
    st.integers(0, 4),
)
def test_no_row_twice_in_a_step_and_no_order_is_stuck(weights: list[float], num: int, seed: int) -> None:
    order = Order(len(weights), num, seed=seed, curriculum=Fixed(weights))
    for step in steps_of(order, 12):
        assert len(set(step)) == num
        open_rows = [row for row, weight in enumerate(weights) if weight == 1]
        if len(open_rows) >= num:
            assert all(weights[row] > 0 for row in step)


def test_rows_are_drawn_as_often_as_their_weight_says() -> None:
    order = Order(40, 4, curriculum=Fixed([1.0] * 20 + [0.25] * 20))
    counts = Counter(row for step in steps_of(order, 500) for row in step)
    light, heavy = (sum(counts[row] for row in rows) for rows in (range(20, 40), range(20)))
    assert light / heavy == pytest.approx(0.25, abs=0.03)


@given(st.integers(3, 9), st.integers(1, 3), st.integers(0, 5))
def test_equal_weights_draw_whole_epochs(rows: int, num: int, seed: int) -> None:
    plain = Order(rows * num, num, seed=seed)
    weighted = Order(rows * num, num, seed=seed, curriculum=Fixed([1.0] * rows * num))
    assert steps_of(weighted, rows) == steps_of(plain, rows)


def test_a_problem_leaves_learning_only_after_its_patience_and_comes_back_beyond_the_margin() -> None:
    pools = Pools([0], PoolRules(patience=2, margin=0.2))
    assert visit(pools, 1.0, 0.5, 1.0, 1.0) == ["learning", "learning", "learning", "easy"]
    assert visit(pools, 0.875, 0.75) == ["easy", "learning"]
    assert visit(pools, 0.0, 1.0, 0.0, 0.0) == ["learning", "learning", "learning", "hard"]
    assert visit(pools, 0.125, 0.25) == ["hard", "learning"]


def test_pools_weigh_rows_by_the_number_of_their_problem() -> None:
    pools = Pools([7, 3, 9], PoolRules(patience=1, easy_weight=0.1, hard_weight=0.0))
    assert pools.observe([Seen(3, 1.0), Seen(9, 0.0), Seen(7, 0.5)]) == [
        "1 from learning to easy", "1 from learning to hard",
    ]  # fmt: skip
    assert [pools.weight(row) for row in range(3)] == [1.0, 0.1, 0.0]
    third = pytest.approx(1 / 3)
    assert pools.metrics() == {"curriculum/easy": third, "curriculum/learning": third, "curriculum/hard": third}


def levels(**rules: Any) -> Levels:
    return Levels([10, 11, 12, 13], [1, 1, 2, 4], LevelRules(**{"window": 2, "up_at": 0.7, "down_at": 0.2, **rules}))


def test_levels_go_up_and_down_on_a_full_window_of_their_own_groups() -> None:
    mine = levels(review=0.25)
    assert mine.observe([Seen(10, 1.0)]) == []
    (change,) = mine.observe([Seen(11, 0.5)])
    assert change.startswith("level 1 to 2: 75% mean success over the last 2 groups")
    assert [mine.weight(row) for row in range(4)] == [0.25, 0.25, 1.0, 0.0]
    assert mine.observe([Seen(10, 0.0), Seen(11, 0.0)]) == [], "groups of other levels do not count"
    assert mine.observe([Seen(12, 0.5), Seen(12, 0.5)]) == []
    assert mine.metrics() == {"curriculum/level": 2.0, "curriculum/level_success": 0.5}
    assert mine.observe([Seen(12, 0.0), Seen(12, 0.25)])[0].startswith("level 2 to 1")


def test_levels_stay_at_their_ends() -> None:
    mine = levels(window=1)
    mine.observe([Seen(10, 0.0)])
    assert mine.level == 1
    for problem in (10, 12, 13, 13):
        mine.observe([Seen(problem, 1.0)])
    assert mine.level == 4


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.25, 0.5, 1.0])), max_size=30), st.booleans())
def test_a_state_that_went_through_json_goes_on_the_same(history: list[tuple[int, float]], is_levels: bool) -> None:
    def make() -> Any:
        return levels() if is_levels else Pools([10, 11, 12, 13], PoolRules())

    def draws(curriculum: Any, state: Any = None) -> tuple[list[list[int]], Any]:
        order = Order(4, 1, seed=3, curriculum=curriculum)
        if state is not None:
            order.load_state_dict(state)
        return steps_of(order, 8), order.state_dict()

    whole = make()
    order = Order(4, 1, seed=3, curriculum=whole)
    for problem, rate in history:
        order.draw()
        order.observe([Seen(10 + problem, rate)])
    saved = json.loads(json.dumps(order.state_dict()))
    later, end = draws(make(), saved)
    assert later == steps_of(order, 8)
    assert end == order.state_dict()


def test_a_checkpoint_of_another_curriculum_is_refused() -> None:
    plain, weighted = Order(4, 1), Order(4, 1, curriculum=Fixed([1.0] * 4))
    with pytest.raises(DataError, match="this run has a curriculum and the checkpoint has none"):
        weighted.load_state_dict(plain.state_dict())
    with pytest.raises(DataError, match="this run has no curriculum and the checkpoint has one"):
        plain.load_state_dict(weighted.state_dict())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 1, None, 2], "row 3 of rows has None"),
        ([1, "2", 1, 2], "row 2 of rows has '2'"),
        ([3, 3, 3], "all rows of rows have level 3"),
        ([1, 1, 1, 2], "Level 2 of rows has 1 problems, and a step draws 2"),
    ],
)
def test_data_without_usable_levels_is_refused(values: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_levels(values, ["row 1", "row 2", "row 3", "row 4"][: len(values)], "rows", 2)


def group(problem: int, reward: tuple[float | None, ...], **rewards: tuple[float | None, ...]) -> ScoredGroup:
    return ScoredGroup(0, Problem(problem, "p"), (1,), (), rewards=rewards, reward=reward, has_signal=False)


def test_success_is_the_share_of_judged_completions_at_the_bound() -> None:
    groups = [group(5, (1.0, 0.4, None, 2.0), gym=(0.0, 0.0, 1.0, None)), group(6, (None, None), gym=(1.0, 1.0))]
    assert successes(groups, None, 1.0) == [Seen(5, 2 / 3)]
    assert successes(groups, "gym", 1.0) == [Seen(5, 1 / 3), Seen(6, 1.0)]
