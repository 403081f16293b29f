"""Which rank is missed, and why: on a store and a clock of the test's own."""

from __future__ import annotations

import json
import os

import pytest

from groupwise import heartbeat
from groupwise.heartbeat import IDLE_SECONDS, LEAVE_SECONDS, SILENT_SECONDS, Heartbeat


class MemoryStore(dict[str, str]):
    """A store as `torch.distributed` has it."""

    def set(self, key: str, value: str) -> None:
        self[key] = value

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)

    def read(self, key: str) -> bytes:
        return self[key].encode()


class Two:
    """Two ranks in one process, and the time between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.cpu = 1000.0, 0.0
        self.store = MemoryStore()
        self.store.get = self.store.read  # type: ignore[assignment, method-assign]
        monkeypatch.setattr(heartbeat.time, "process_time", lambda: self.cpu)
        self.first, self.second = (Heartbeat(self.store, rank, 2, clock=lambda: self.now) for rank in range(2))

    def wait(self, seconds: float, *, beats: bool = True, computes: bool = False) -> str | None:
        """Time passes, the second rank beating or not; whom the first one misses then."""
        for _ in range(int(seconds)):
            self.now += 1
            self.cpu += 0.5 if computes else 0.0001
            if beats:
                self.second.beat()
            self.first.look()
        return self.first.missed()


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Two:
    return Two(monkeypatch)


def test_a_rank_that_beats_is_not_missed(two):
    assert two.wait(500) is None


def test_a_rank_without_a_beat_is_missed_whatever_the_other_one_does(two):
    assert two.wait(3) is None
    assert two.wait(SILENT_SECONDS - 2, beats=False) is None
    assert "Rank 1" in two.wait(5, beats=False)
    assert f"process {os.getpid()}) has given no sign of life for" in two.first.missed()


def test_a_rank_that_idles_in_lockstep_while_another_waits_hangs(two):
    with two.first.waiting("the sum of the gradients"), two.second.lockstep("learning"):
        assert two.wait(IDLE_SECONDS - 5) is None
        text = two.wait(10)
    assert "hangs in learning" in text
    assert "wait for the sum of the gradients" in text


def test_a_long_pass_is_no_hang(two):
    with two.first.waiting("the sum of the gradients"), two.second.lockstep("learning"):
        assert two.wait(1000, computes=True) is None


def test_a_slow_reward_is_no_hang(two):
    with two.first.waiting("the next order of rank 0"):
        assert two.wait(1000) is None


def test_two_ranks_that_wait_for_a_third_do_not_miss_each_other(two):
    with two.first.waiting("a sum"), two.second.lockstep("learning"), two.second.waiting("a sum"):
        assert two.wait(1000) is None


def test_nobody_hangs_while_nobody_waits(two):
    with two.second.lockstep("learning"):
        assert two.wait(1000) is None


def test_an_error_is_passed_on(two):
    two.second.report(ValueError("too large"))
    assert (
        two.wait(1) == f"Rank 1 ({two.first._state['host']}, process {os.getpid()}) has failed: ValueError: too large."
    )


def test_an_error_stays_what_it_is_where_the_store_is_gone(two, monkeypatch):
    def gone(key: str, value: str) -> None:
        raise ConnectionError("Broken pipe")

    monkeypatch.setattr(two.store, "set", gone)
    two.second.report(ValueError("Rank 0 is gone"))


@pytest.mark.parametrize(("rank", "of_launcher"), [(1, False), (0, True)])
def test_a_rank_that_does_not_hold_the_store_ends_at_once(monkeypatch, rank, of_launcher):
    slept: list[float] = []
    monkeypatch.setattr(heartbeat.time, "sleep", slept.append)
    ending = Heartbeat(MemoryStore(), rank, 2, store_is_of_launcher=of_launcher)
    ending.report(ValueError("this pass cannot be computed"))
    ending.end()
    assert not slept


def test_a_rank_that_has_ended_is_missed_only_by_one_that_waits_for_it(two):
    two.second.end()
    assert two.wait(100, beats=False) is None
    with two.first.waiting("a sum"):
        assert two.wait(LEAVE_SECONDS + 2, beats=False).endswith("has ended, and the others still wait for it.")


def test_a_process_that_is_gone_is_named_at_once(two):
    two.wait(1)
    state = json.loads(two.store["groupwise/rank/1"])
    two.store.set("groupwise/rank/1", json.dumps({**state, "pid": 2**22 + 1, "beat": state["beat"] + 1}))
    assert "is gone" in two.wait(1, beats=False)


def test_a_lockstep_inside_another_ends_with_the_inner_one(two):
    with two.second.lockstep("learning"):
        with two.second.lockstep("sampling"):
            assert two.second._state["lockstep"] == "sampling"
        assert two.second._state["lockstep"] == "learning"
    assert two.second._state["lockstep"] is None


def test_the_holder_of_the_store_stays_until_the_others_have_read_why_it_ends(two, monkeypatch):
    steps = iter([lambda: None, two.second.look, lambda: two.second.report(RuntimeError("rank 0 has failed"))])
    monkeypatch.setattr(heartbeat.time, "sleep", lambda seconds: next(steps)())
    holder = Heartbeat(two.store, 0, 2, store_is_of_launcher=False, clock=lambda: two.now)
    two.second.beat()
    holder.report(ValueError("this pass cannot be computed"))
    assert "has failed: ValueError: this pass cannot be computed" in two.second.missed()
    assert next(steps, None) is None
