"""What is due when."""

from __future__ import annotations

from typing import Any

import pytest

from groupwise.config import GRPOConfig
from groupwise.train.schedule import Schedule


class Mixes:
    """Stands for the reference and remembers."""

    def __init__(self) -> None:
        self.alphas: list[float] = []

    def mix(self, alpha: float) -> None:
        self.alphas.append(alpha)


def make(num_rows: int = 10, reference: Any = None, **settings: Any) -> Schedule:
    return Schedule(GRPOConfig(**{"prompts_per_step": 4} | settings).settings, num_rows, reference)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 3), (2, 5), (0.1, 1), (4, 10)])
def test_epochs_are_rounded_up_to_steps(epochs, steps):
    schedule = make(num_train_epochs=epochs)
    assert schedule.num_steps == steps
    assert list(schedule.steps()) == list(range(1, steps + 1))
    assert schedule.step == steps


@pytest.mark.parametrize(("epochs", "steps"), [(1, 2), (3, 6), (0.5, 1), (0.1, 1)])
def test_without_incomplete_steps_an_epoch_is_a_whole_number_of_them(epochs, steps):
    schedule = make(num_train_epochs=epochs, drop_incomplete_step=True)
    assert (schedule.num_steps, schedule.steps_per_epoch) == (steps, 2)
    assert [step for step in range(1, 7) if schedule.is_due(step, None, "epoch")] == [2, 4, 6]


def test_max_steps_wins_and_updates_are_counted():
    schedule = make(max_steps=7, num_train_epochs=100, num_iterations=3, num_minibatches=2)
    assert (schedule.num_steps, schedule.num_updates) == (7, 42)


def test_stopping_finishes_the_step_under_way():
    schedule, done = make(max_steps=9), []
    for step in schedule.steps():
        done.append(step)
        if step == 3:
            schedule.stop("a test")
            schedule.stop("another one")
            assert schedule.is_stopping
    assert done == [1, 2, 3]
    assert schedule.stopped_by == "a test"
    assert schedule.step == 3


def test_a_resumed_schedule_goes_on_behind_its_step():
    schedule = make(max_steps=5)
    schedule.step = 3
    assert list(schedule.steps()) == [4, 5]


def due(schedule: Schedule, every: int | None, strategy: str) -> list[int]:
    return [step for step in range(1, 11) if schedule.is_due(step, every, strategy)]


def test_due_every_so_many_steps_once_an_epoch_or_never():
    schedule = make(num_rows=10)  # 2.5 steps an epoch
    assert due(schedule, 3, "steps") == [3, 6, 9]
    assert due(schedule, None, "steps") == []
    assert due(schedule, 3, "no") == []
    assert due(schedule, 3, "epoch") == [3, 5, 8, 10], "the step in which an epoch is complete"


def synced(**settings: Any) -> list[tuple[int, float]]:
    reference = Mixes()
    schedule, found = make(reference=reference, max_steps=12, **settings), []
    for step in schedule.steps():
        before = len(reference.alphas)
        schedule.sync_reference(step)
        found += [(step, alpha) for alpha in reference.alphas[before:]]
    return found


def test_the_reference_is_mixed_or_reset_when_due():
    assert synced() == []
    assert synced(sync_ref_model=True, ref_model_sync_steps=5) == [(5, 0.6), (10, 0.6)]
    assert synced(sync_ref_model=True, ref_model_sync_steps=6, ref_model_mixup_alpha=0.25) == [(6, 0.25), (12, 0.25)]
    assert synced(ref_model_reset_steps=4) == [(4, 1.0), (8, 1.0), (12, 1.0)]
    make(reference=None, ref_model_reset_steps=1).sync_reference(1)  # beta 0: there is none
