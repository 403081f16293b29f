"""Reward functions that hang, raise or die: named, and the run stopped or gone on as it was configured."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from groupwise.errors import ConfigError, RewardError
from groupwise.rewards import RewardScorer, interrupt, resolve_rewards
from groupwise.rewards import isolated as isolated_process
from groupwise.rewards.interrupt import CallTimeoutError, call_within
from tests.rewards import groups

REWARDS = """
import os, time

def length(completions, trainer_state, log_metric, log_extra, **columns):
    print("it speaks")
    log_metric("longest", max(map(len, completions)))
    log_extra("first", [completion[0] for completion in completions])
    return [len(completion) + trainer_state.global_step for completion in completions]

def hang(completions):
    for text in completions:
        while text == "bad":
            time.sleep(0.01)
    return [1.0 for _ in completions]

def die(completions):
    os.abort()

def fail(completions):
    for text in completions:
        if text == "bad":
            raise ValueError("no good")

async def later(completions, answer):
    return [float(len(text)) for text in completions]

def pid(completions):
    return [float(os.getpid()) for _ in completions]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(REWARDS)
    return path


def make_group(*texts, **columns):
    return groups.make_group("p", list(texts), **columns)


def values(functions, *texts):
    group = RewardScorer(functions).score([make_group(*texts)]).groups[0]
    return list(next(iter(group.rewards.values())))


def hangs(completions):
    for completion in completions:
        while completion == "bad":
            pass
    return [1.0] * len(completions)


async def hangs_awaiting(completions):
    await asyncio.sleep(60)


async def hangs_blocking(completions):
    time.sleep(3)


def sleeps(completions):
    time.sleep(60)


@pytest.mark.parametrize("function", [hangs, sleeps, hangs_awaiting, hangs_blocking])
def test_a_hung_function_is_named_and_stops_the_run(function):
    start = time.perf_counter()
    with pytest.raises(RewardError, match=rf'"{function.__name__}" did not return within 0.2 s.*isolated: true'):
        values(resolve_rewards([{"function": function, "timeout_s": 0.2}]), "good", "bad")
    assert time.perf_counter() - start < 2.5


def test_the_completion_it_hangs_at_is_named():
    with pytest.raises(RewardError, match=r"completion 2 .*'bad'"):
        values(resolve_rewards([{"function": hangs, "timeout_s": 0.1}]), "good", "bad")


@pytest.mark.parametrize("function", [hangs, hangs_awaiting])
def test_with_on_failure_none_the_run_goes_on_and_says_so(function):
    spec = {"function": function, "timeout_s": 0.1, "on_failure": "none"}
    with pytest.warns(UserWarning, match="did not return within 0.1 s"):
        result = RewardScorer(resolve_rewards([spec, "length"])).score([make_group("good", "bad")])
    assert result.groups[0].rewards[function.__name__] == (None, None)
    assert None not in result.groups[0].rewards["length"]
    assert result.logged[f"{function.__name__}/failed"] == 1


def test_the_loop_that_a_function_blocks_is_left_for_another():
    async def quick(completions):
        return [2.0] * len(completions)

    specs = [{"function": hangs_blocking, "timeout_s": 0.1, "on_failure": "none"}]
    scorer = RewardScorer(resolve_rewards(specs))
    with pytest.warns(UserWarning, match="did not return"):
        scorer.score([make_group("a", "b")])
    scorer = scorer.with_function(resolve_rewards([quick])[0])
    scorer.functions = scorer.functions[1:]
    assert scorer.score([make_group("a", "b")]).groups[0].rewards["quick"] == (2.0, 2.0)


def test_in_another_thread_it_is_left_behind_and_said_so():
    errors = []

    def run():
        try:
            values(resolve_rewards([{"function": sleeps_a_second, "timeout_s": 0.1}]), "a", "b")
        except RewardError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "cannot be stopped from here" in errors[0]


def sleeps_a_second(completions):
    time.sleep(1)


def test_a_function_that_catches_everything_is_broken_off_again():
    seen = []

    def stubborn():
        while len(seen) < 1:
            try:
                time.sleep(30)
            except BaseException:
                seen.append(1)
        time.sleep(30)

    with pytest.raises(CallTimeoutError):
        call_within(0.1, stubborn, "stubborn")
    assert seen == [1]


DEAF = """
import signal
from groupwise.rewards import interrupt
interrupt.GRACE_S = 1
def deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, [interrupt.SIGNAL])
    signal.pause()
interrupt.call_within(0.1, deaf, 'reward function "deaf"')
"""


def test_where_it_cannot_be_broken_off_the_program_ends_and_says_why():
    done = subprocess.run([sys.executable, "-c", DEAF], capture_output=True, text=True, timeout=30)
    assert done.returncode == interrupt.EXIT_STATUS
    assert 'reward function "deaf" did not return within 0.1 s' in done.stderr


def test_it_ends_although_nobody_reads_why():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", DEAF], stderr=writing, timeout=30)
    os.close(writing)
    assert done.returncode == interrupt.EXIT_STATUS


def test_the_handler_of_the_signal_is_put_back():
    import signal

    before = signal.getsignal(interrupt.SIGNAL)
    assert call_within(5, lambda: 3, "quick") == 3
    assert signal.getsignal(interrupt.SIGNAL) is before


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"timeout_s": -1}, "timeout_s"),
        ({"on_failure": "non"}, 'Did you mean "none"'),
        ({"isolated": True}, "isolated"),
    ],
)
def test_wrong_settings_are_named(setting, said):
    with pytest.raises(ConfigError, match=said):
        resolve_rewards([{"function": hangs, **setting}])


def isolated(file, name, **more):
    return resolve_rewards([{"function": f"{file}:{name}", "isolated": True, **more}])


def test_an_isolated_function_is_called_as_in_this_process(file, capfd):
    state = SimpleNamespace(global_step=7, log_history=[{}])
    rows = [make_group("a", "bcd")]
    inside = RewardScorer(resolve_rewards(f"{file}:length")).score(rows, trainer_state=state)
    capfd.readouterr()
    outside = RewardScorer(isolated(file, "length")).score(rows, trainer_state=state)
    assert outside.groups == inside.groups
    assert outside.groups[0].rewards == {"length": (8.0, 10.0)}
    assert (outside.logged, outside.extras) == (inside.logged, inside.extras)
    assert capfd.readouterr().err == "it speaks\n"


def test_an_isolated_function_runs_in_one_process_of_its_own(file):
    scorer = RewardScorer(isolated(file, "pid"))
    first, second = (scorer.score([make_group("a", "b")]).groups[0].rewards["pid"] for _ in range(2))
    assert first == second
    assert first[0] != os.getpid()


def test_the_worker_of_an_isolated_function_outlives_a_forked_child(file):
    scorer = RewardScorer(isolated(file, "pid"))
    first = scorer.score([make_group("a")]).groups[0].reward
    if (child := os.fork()) == 0:
        isolated_process.close(scorer.functions[0].call._workers)  # as at the end of a program
        os._exit(0)
    os.waitpid(child, 0)
    assert scorer.score([make_group("a")]).groups[0].reward == first


def test_an_isolated_function_may_be_async_and_asks_for_its_columns(file):
    scorer = RewardScorer(isolated(file, "later"))
    with pytest.raises(RewardError, match='takes "answer"'):
        scorer.check(["question"])
    assert scorer.score([make_group("ab", answer="x")]).groups[0].rewards["later"] == (2.0,)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hang", r"did not return within 0.3 s"),
        ("die", r"took its worker process with it: ended by SIGABRT"),
        ("fail", r"raised ValueError: no good \(.*mine.py, line \d+\).*completion 2 .*'bad'"),
    ],
)
def test_an_isolated_function_that_fails_costs_its_call_only(file, name, said):
    with pytest.raises(RewardError, match=said):
        values(isolated(file, name, timeout_s=0.3), "good", "bad")
    scorer = RewardScorer(isolated(file, name, timeout_s=0.3, on_failure="none"))
    with pytest.warns(UserWarning, match=said):
        assert scorer.score([make_group("good", "bad")]).groups[0].rewards[name] == (None, None)
    if name == "hang":  # in a new worker
        assert scorer.score([make_group("good", "fine")]).groups[0].rewards[name] == (1.0, 1.0)


def test_what_cannot_travel_is_named(file):
    with pytest.raises(RewardError, match=r'takes "answer".*JSON'):
        RewardScorer(isolated(file, "later")).score([make_group("a", answer=Path("x"))])


@pytest.mark.parametrize("value", [Path("x"), {(0, 1): "a"}, [{"deep": {1: "a"}}], {1: "a", "b": 2}, 1j, {2}, b"x"])
def test_what_cannot_travel_is_named_with_its_row(file, value):
    rows = [make_group("a", answer="right"), make_group("b", answer=value)]
    with pytest.raises(RewardError, match=r'takes "answer".*JSON \(completion 2: '):
        RewardScorer(isolated(file, "later")).score(rows)


def test_tensors_and_arrays_travel(file):
    rows = [make_group("a", answer=torch.eye(2)), make_group("bb", answer=[np.float32(1.5)])]
    assert [g.reward for g in RewardScorer(isolated(file, "later")).score(rows).groups] == [(1.0,), (2.0,)]


def test_an_isolated_function_that_is_not_there_is_an_error_at_once(file):
    with pytest.raises(ConfigError, match='no function "lenght"'):
        isolated(file, "lenght")


def leaves(completions):
    sys.exit(3)


async def leaves_awaiting(completions):
    await asyncio.sleep(0.001)
    sys.exit("done")


async def leaves_in_a_task(completions):
    async def grade():
        await asyncio.sleep(0.001)
        raise KeyboardInterrupt

    await asyncio.create_task(grade())


async def cancels(completions):
    raise asyncio.CancelledError


class PatienceIsOver(BaseException):
    """As libraries of time limits raise, so that no `except Exception` takes it."""


def raises_its_own(completions):
    raise PatienceIsOver("too slow")


LEAVING = {
    leaves: "raised SystemExit: 3",
    leaves_awaiting: "raised SystemExit: done",
    leaves_in_a_task: "raised KeyboardInterrupt",
    cancels: "CancelledError",
    raises_its_own: "raised PatienceIsOver: too slow",
}


@pytest.mark.parametrize("function", LEAVING, ids=lambda function: function.__name__)
def test_a_function_that_ends_the_program_is_an_error_of_that_function(function):
    spec = {"function": function, "timeout_s": 5}
    start = time.perf_counter()
    with pytest.raises(RewardError, match=f'"{function.__name__}" .*{LEAVING[function]}'):
        values(resolve_rewards([spec]), "good", "bad")
    assert time.perf_counter() - start < 4


@pytest.mark.parametrize("function", LEAVING, ids=lambda function: function.__name__)
def test_with_on_failure_none_its_end_is_one_call_without_rewards(function):
    scorer = RewardScorer(resolve_rewards([{"function": function, "timeout_s": 5, "on_failure": "none"}, later]))
    for _ in range(2):  # the loop lives on
        with pytest.warns(UserWarning, match="None of its completions is scored"):
            (group,) = scorer.score([make_group("good", answer="x")]).groups
        assert group.reward == (4.0,)


async def later(completions, answer):
    return [float(len(text)) for text in completions]


def test_ctrl_c_is_no_failure_of_the_function():
    def interrupted(completions):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        values(resolve_rewards([{"function": interrupted, "on_failure": "none"}]), "good")


def test_a_file_that_ends_the_program_is_an_error_of_that_file(tmp_path):
    file = tmp_path / "script.py"
    file.write_text("import argparse\nargparse.ArgumentParser().parse_args(['--wrong'])\ndef f(completions): ...\n")
    with pytest.raises(ConfigError, match=r"script\.py.*SystemExit.*line 2"):
        resolve_rewards(f"{file}:f")
