"""Signals of a run, and what the children that are forked from it make of them."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from api_helpers import trainer

from groupwise.forks import not_in_children
from groupwise.lifecycle.signals import finish_step_first
from groupwise.notes import shown_by
from groupwise.runs.folder import RunFolder, locked

FORK = multiprocessing.get_context("fork")
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
WAIT_S = 5.0
"""A child that is not dead by then never dies."""


def status_of_a_child(number: int, pause_s: float = 0.2) -> int | None:
    """How a forked child that sleeps ends by this signal; None where it goes on living."""
    pid = os.fork()
    if pid == 0:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # KeyboardInterrupt has a traceback
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            os._exit(77)
        os._exit(0)
    time.sleep(pause_s)
    os.kill(pid, number)
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if (found := os.waitpid(pid, os.WNOHANG))[0]:
            return os.waitstatus_to_exitcode(found[1])
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


@contextmanager
def a_run(notes: list[str] | None = None) -> Iterator[Any]:
    shown = notes if notes is not None else []
    with shown_by(shown.append), finish_step_first(lambda name: None) as stop:
        yield stop


@contextmanager
def a_run_in_a_run() -> Iterator[None]:
    with a_run(), a_run():
        yield


@contextmanager
def a_chained_handler() -> Iterator[None]:
    """Somebody's handler, set while the run is on, that calls the one before it."""
    with a_run():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in before.items():
            signal.signal(number, lambda n, f, handler=handler: handler(n, f))
        yield
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
@pytest.mark.parametrize("situation", [a_run, a_run_in_a_run, a_chained_handler], ids=lambda s: s.__name__)
def test_a_forked_child_dies_as_it_does_outside_of_a_run(situation: Callable[[], Any], number: signal.Signals) -> None:
    outside = status_of_a_child(number)
    assert outside == (77 if number == signal.SIGINT else -number)
    with situation():
        assert status_of_a_child(number) == outside


def test_a_signal_that_comes_before_the_child_has_run_is_not_lost() -> None:
    with a_run():
        assert [status_of_a_child(signal.SIGTERM, 0.0) for _ in range(30)] == [-signal.SIGTERM] * 30


def test_a_child_of_a_thread_dies_too() -> None:
    found: list[int | None] = []
    with a_run():
        thread = threading.Thread(target=lambda: found.append(status_of_a_child(signal.SIGTERM)))
        thread.start()
        thread.join()
    assert found == [-signal.SIGTERM]


def test_a_child_keeps_the_handlers_that_the_user_has_set() -> None:
    def end(number: int, frame: Any) -> None:
        os._exit(5)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with a_run():
            assert status_of_a_child(signal.SIGTERM) == 5
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signals_of_children_say_nothing_in_the_run_and_forks_change_nothing_for_it() -> None:
    notes: list[str] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with a_run(notes) as stop:
        status_of_a_child(signal.SIGTERM)
        assert (notes, stop.signal) == ([], None)
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
        signal.raise_signal(signal.SIGTERM)
        assert (len(notes), stop.name) == (1, "SIGTERM")


def test_pools_and_processes_of_a_reward_end_while_training(tmp_path: Path) -> None:
    exits: list[int | None] = []

    def reward(completions: list[str], **columns: Any) -> list[float]:
        process = FORK.Process(target=time.sleep, args=(60,))
        process.start()
        process.terminate()
        process.join(WAIT_S)
        exits.append(process.exitcode)
        process.kill()
        with FORK.Pool(2) as pool:
            return pool.map(float, map(len, completions))

    done = trainer(tmp_path, rewards=reward, max_steps=3).train()
    assert done.global_step == 3
    assert exits == [-signal.SIGTERM] * 3


def test_a_child_that_outlives_its_run_does_not_hold_the_run_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with locked(folder):
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
    try:
        with folder.lock.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_child_that_ends_by_an_exception_leaves_the_run_alone(tmp_path: Path) -> None:
    """It unwinds through the whole run: it must not write the run's last words, nor free its folder."""
    here = os.getpid()

    def reward(completions: list[str], **columns: Any) -> list[float]:
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        return [float(len(c)) for c in completions]

    try:
        trainer(tmp_path, rewards=reward, max_steps=2).train()
    except SystemExit:
        assert os.getpid() != here
        os._exit(7)
    events = (tmp_path / "events.jsonl").read_text()
    assert "failed" not in events
    assert events.count('"end"') == 1


def test_what_a_child_must_not_inherit_is_undone_in_it_innermost_first() -> None:
    done: list[str] = []
    with not_in_children(lambda: done.append("outer")), not_in_children(lambda: done.append("inner")):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if done == ["inner", "outer"] else 1)
        assert os.waitpid(pid, 0)[1] == 0
    assert done == []
    pid = os.fork()
    if pid == 0:
        os._exit(len(done))
    assert os.waitpid(pid, 0)[1] == 0


def test_a_hangup_saves_like_any_other_signal_and_never_hurries() -> None:
    with a_run() as stop:
        for _ in range(3):  # a shell that ends sends it once, the terminal once more
            signal.raise_signal(signal.SIGHUP)
        assert (stop.name, stop.exit_code) == ("SIGHUP", 129)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with a_run() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.signal is None
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGINT, "Ctrl-C again stops now."),
        (signal.SIGTERM, "SIGTERM again stops now."),
        (signal.SIGHUP, "SIGTERM stops now."),  # the terminal, and with it Ctrl-C, is gone
    ],
)
def test_what_stops_a_run_at_once_is_told_for_each_signal(number: int, says: str) -> None:
    notes: list[str] = []
    with a_run(notes):
        signal.raise_signal(number)
    assert notes == [f"Stopping after this step, with a checkpoint. {says}"]


def test_a_signal_while_the_screen_prints_is_not_an_error() -> None:
    def show(text: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    stopped: list[str] = []
    with shown_by(show), finish_step_first(stopped.append) as stop:
        signal.raise_signal(signal.SIGTERM)
    assert stopped == ["SIGTERM"]
    assert stop.name == "SIGTERM"
