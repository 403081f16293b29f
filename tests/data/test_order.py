"""Every epoch holds every row once, no step holds a row twice, and a resumed order goes on as if uninterrupted."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupwise.data import Order
from groupwise.data.order import permutation
from groupwise.errors import DataError

sizes = st.integers(1, 12).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(1, rows)))


def rows_of(order: Order, num_steps: int) -> list[list[int]]:
    return [[draw.row for draw in order.draw()] for _ in range(num_steps)]


@given(sizes, st.integers(0, 5), st.booleans())
def test_no_row_twice_in_a_step(size: tuple[int, int], seed: int, shuffle: bool) -> None:
    for step in rows_of(Order(*size, seed=seed, shuffle=shuffle), 20):
        assert len(set(step)) == len(step)


@given(sizes, st.integers(0, 5))
def test_epochs_stay_balanced(size: tuple[int, int], seed: int) -> None:
    num_rows, prompts_per_step = size
    drawn = list(chain.from_iterable(rows_of(Order(num_rows, prompts_per_step, seed=seed), 4 * num_rows)))
    counts = Counter(drawn)  # a row put aside comes a step late, so counts differ by at most one epoch more
    assert set(counts) == set(range(num_rows))
    assert max(counts.values()) - min(counts.values()) <= 2
    assert len(drawn) == 4 * num_rows * prompts_per_step


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 5))
def test_steps_that_divide_the_rows_give_whole_epochs(steps_per_epoch: int, prompts_per_step: int, seed: int) -> None:
    num_rows = steps_per_epoch * prompts_per_step
    order = Order(num_rows, prompts_per_step, seed=seed)
    for epoch in range(3):
        assert list(chain.from_iterable(rows_of(order, steps_per_epoch))) == permutation(num_rows, seed, epoch)


def test_steps_cross_epochs() -> None:
    order = Order(5, 3, shuffle=False)
    assert rows_of(order, 5) == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1], [2, 3, 4]]


def test_a_row_the_step_already_has_comes_first_in_the_next() -> None:
    seed = 1
    rows = permutation(4, seed, 0) + permutation(4, seed, 1)
    assert rows[3] == rows[4], "this seed's second epoch begins with the row that ended its first"
    first, second, third = rows_of(Order(4, 3, seed=seed), 3)
    assert first == rows[:3]
    assert second == [rows[3], rows[5], rows[6]]
    assert third[:2] == [rows[4], rows[7]]


def test_draw_numbers_run_on() -> None:
    order = Order(4, 3)
    assert [draw.number for _ in range(5) for draw in order.draw()] == list(range(15))


def test_epoch_is_the_share_of_rows_drawn() -> None:
    order = Order(8, 2)
    assert order.epoch == 0.0
    rows_of(order, 5)
    assert order.epoch == 1.25


@given(sizes, st.integers(0, 15), st.booleans())
def test_resumed_is_uninterrupted(size: tuple[int, int], steps_before: int, shuffle: bool) -> None:
    whole = Order(*size, seed=1, shuffle=shuffle)
    rows_of(whole, steps_before)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = Order(*size, seed=1, shuffle=shuffle)
    resumed.load_state_dict(state)
    for _ in range(15):
        assert resumed.draw() == whole.draw()
    assert resumed.epoch == whole.epoch


def test_resume_in_the_middle_of_a_step_still_avoids_its_rows() -> None:
    whole = Order(6, 3, seed=1)
    first = {draw.row for draw in whole.draw()}
    resumed = Order(6, 3, seed=1)
    resumed.load_state_dict(whole.state_dict())
    assert first.isdisjoint(draw.row for draw in resumed.draw(3, same_step=True))


@given(st.integers(0, 5))
def test_further_draws_of_a_step_bring_new_rows(seed: int) -> None:
    order = Order(7, 3, seed=seed)
    order.draw()
    step = order.draw() + order.draw(2, same_step=True) + order.draw(2, same_step=True)
    assert {draw.row for draw in step} == set(range(7))
    assert order.num_left_in_step == 0
    with pytest.raises(DataError, match="1 more problems, but only 0 of 7"):
        order.draw(1, same_step=True)


def test_later_epochs_have_their_own_order() -> None:
    orders = {tuple(permutation(50, 0, epoch)) for epoch in range(5)} | {tuple(permutation(50, 1, 0))}
    assert len(orders) == 6


def test_the_permutation_never_changes() -> None:
    """Typed in: a run must be resumable with another Python or numpy."""
    assert permutation(10, 42, 3) == [3, 4, 1, 0, 6, 9, 7, 8, 5, 2]


def test_permutations_are_uniform() -> None:
    firsts = Counter(permutation(4, seed, 0)[0] for seed in range(4000))
    assert all(abs(count - 1000) < 150 for count in firsts.values())


def test_fewer_rows_than_a_step_needs_is_an_error() -> None:
    with pytest.raises(DataError, match="has 3 problems, but a step draws 4"):
        Order(3, 4)


@pytest.mark.parametrize("other", [Order(9, 2), Order(8, 2, seed=1), Order(8, 2, shuffle=False)])
def test_another_data_set_cannot_be_resumed(other: Order) -> None:
    with pytest.raises(DataError, match="cannot be resumed"):
        other.load_state_dict(Order(8, 2).state_dict())


@given(sizes, st.booleans())
def test_an_epoch_without_its_incomplete_step_is_whole_steps_of_different_rows(
    size: tuple[int, int], shuffle: bool
) -> None:
    num_rows, prompts = size
    order = Order(*size, seed=3, shuffle=shuffle, drop_incomplete_step=True)
    num_steps = num_rows // prompts
    for epoch in range(1, 4):
        drawn = list(chain.from_iterable(rows_of(order, num_steps)))
        assert len(set(drawn)) == len(drawn) == num_steps * prompts
        assert order.epoch == epoch
        expected = permutation(num_rows, 3, epoch - 1) if shuffle else list(range(num_rows))
        assert drawn == expected[: num_steps * prompts]


def test_the_rows_that_are_left_out_change_with_the_epoch() -> None:
    order = Order(9, 2, seed=1, drop_incomplete_step=True)
    left_out = {(set(range(9)) - set(chain.from_iterable(rows_of(order, 4)))).pop() for _ in range(20)}
    assert len(left_out) > 3


@given(sizes, st.integers(0, 15))
def test_resumed_is_uninterrupted_where_incomplete_steps_are_dropped(size: tuple[int, int], steps_before: int) -> None:
    whole = Order(*size, seed=1, drop_incomplete_step=True)
    rows_of(whole, steps_before)
    resumed = Order(*size, seed=1, drop_incomplete_step=True)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert rows_of(resumed, 15) == rows_of(whole, 15)


def test_a_step_that_draws_further_rows_ends_where_only_left_out_ones_remain() -> None:
    order = Order(5, 2, shuffle=False, drop_incomplete_step=True)
    order.draw()
    order.draw(2, same_step=True)
    with pytest.raises(DataError, match="1 more problems, but only 0 of 4 rows"):
        order.draw(1, same_step=True)


def test_a_checkpoint_of_before_resumes_and_one_of_other_epochs_does_not() -> None:
    state = Order(9, 2).state_dict()
    del state["rows_per_epoch"]
    Order(9, 2).load_state_dict(state)
    with pytest.raises(DataError, match="rows_per_epoch was 9 and is now 8"):
        Order(9, 2, drop_incomplete_step=True).load_state_dict(state)
