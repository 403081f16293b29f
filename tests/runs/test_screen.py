"""Tests of the screen: it fits every terminal, says what it must, and gives the terminal back."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from groupwise.runs import make_screen
from groupwise.runs.plain_screen import HEADER_EVERY, PlainScreen
from groupwise.runs.progress import Progress, typical_sample
from groupwise.runs.screen import Picture, set_size

from .synthetic import SUMMARY, make_evaluation, make_groups, make_metrics

STEP_SECONDS = 10.0
SHOW_CURSOR = b"\x1b[?25h"


def progress_after(num_steps: int, **summary: Any) -> Progress:
    """The state after so many steps of ten seconds, on a clock of its own."""
    now = itertools.count(0.0, STEP_SECONDS)
    state = Progress(clock=lambda: 0.0)
    state.clock = lambda: next(now)
    state.start(SUMMARY | summary)
    for step in range(1, num_steps + 1):
        groups = make_groups(step)
        state.step(make_metrics(step, groups), groups)
    at_last = STEP_SECONDS * num_steps
    state.clock = lambda: at_last
    return state


def drawn(state: Progress, width: int, height: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(Picture(state), end="")
    return capture.get().split("\n")


@pytest.mark.parametrize("num_steps", [0, 1, 2, 200])
@pytest.mark.parametrize("size", [(80, 24), (120, 40), (63, 20), (40, 12), (24, 8), (10, 5), (3, 3), (400, 100)])
def test_the_picture_fits_every_terminal(num_steps: int, size: tuple[int, int]) -> None:
    width, height = size
    state = progress_after(num_steps, run_name="名前" * 40, model="a" * 300)
    lines = drawn(state, width, height)
    assert len(lines) <= max(1, height - 2)
    assert max(cell_len(line) for line in lines) <= width


def test_one_glance_tells_what_the_user_asks() -> None:
    state = progress_after(15)
    state.evaluation = make_evaluation(dict(state.metrics))
    state.phase = ("rollout", 3, 8)
    text = "\n".join(drawn(state, 80, 24))
    for expected in ("step 15/60", "25%", "2:30 gone, 7:30 left", "tok/s", "rollout", "3/8", "steps 1 to 15"):
        assert expected in text
    for expected in (
        "▲",
        "length",
        "format     0.500",
        "KL",
        "cut off",
        "no signal",
        "held out",
        "a completion, reward",
    ):
        assert expected in text
    assert "■ rollout" in text
    assert "Summarise <b>the</b> [red]topic[/red]." in text, "markup of the data is shown, not obeyed"


def test_a_record_full_of_nulls_is_drawn() -> None:
    state = progress_after(1)
    state.step({"step": 2, **dict.fromkeys(state.metrics.keys() - {"step"})}, [])
    text = "\n".join(drawn(state, 80, 24))
    assert "reward       -" in text


def test_time_left_is_steps_left_at_the_pace_of_the_latest() -> None:
    state = progress_after(20)
    assert state.seconds_left == 40 * STEP_SECONDS
    later = STEP_SECONDS * 20 + 4
    state.clock = lambda: later
    assert state.seconds_left == 40 * STEP_SECONDS - 4
    assert progress_after(0).seconds_left is None


EVALUATION = "evaluation"


@pytest.mark.parametrize(
    ("ends", "left"),
    [
        pytest.param([(1, 10)], 590, id="one step"),
        pytest.param([(EVALUATION, 0, 300), (1, 310)], 590, id="an evaluation before the first step is none of a step"),
        pytest.param([(EVALUATION, 1, 40), (1, 40)], 59 * 40, id="the first step has an evaluation"),
        pytest.param([(1, 95), (2, 105), (3, 115)], 570, id="the first step warms up"),
        pytest.param(
            [(EVALUATION, 1, 90), (1, 90), (EVALUATION, 2, 130), (2, 130)], 58 * 40, id="every step has an evaluation"
        ),
        pytest.param(
            [(step, 10 * step + 100 * (step // 5)) for step in range(1, 41)], 20 * 30, id="every fifth step has one"
        ),
        pytest.param([(step, step + 100 * (step // 25)) for step in range(1, 52)], 9 * 5, id="every 25th step has one"),
        pytest.param([(1, 10), (2, 20), (3, 30), (5, 70)], 55 * 15, id="a screen that misses steps"),
    ],
)
def test_time_left_counts_all_that_happens_between_steps(ends: list[tuple[Any, ...]], left: float) -> None:
    """`ends` are the steps of a run of 60 that are finished, and the seconds at which they, or evaluations, are."""
    now = 0.0
    state = Progress(clock=lambda: now)
    state.start({"steps": 60})
    for end in ends:
        now = end[-1]
        if end[0] == EVALUATION:
            state.evaluated({"eval_reward": 1.0, "step": end[1]})
        else:
            state.step({"step": end[0]}, [])
    assert state.seconds_left == left


def test_time_left_of_a_resumed_run_is_that_of_its_own_steps() -> None:
    now = 0.0
    state = Progress(clock=lambda: now)
    state.start({"steps": 60, "history": [{"step": step} for step in range(1, 41)]})
    assert state.seconds_left is None
    for step, now in ((41, 50.0), (42, 57.0)):  # noqa: B007  # the clock reads it
        state.step({"step": step}, [])
    assert state.seconds_left == 18 * 7


def test_a_resumed_run_shows_its_whole_curve() -> None:
    history = [make_metrics(step, make_groups(step)) for step in range(1, 11)]
    state = progress_after(0, history=history)
    assert state.rewards == [record["reward"] for record in history]
    assert "steps 1 to 10" in "\n".join(drawn(state, 80, 24))


def test_the_sample_is_the_median_of_the_first_judged_group() -> None:
    unscored = dataclasses.replace(make_groups(1)[0], reward=(None,) * 4)
    scored = dataclasses.replace(make_groups(1)[1], reward=(3.0, None, 1.0, 2.0))
    sample = typical_sample([unscored, scored])
    assert sample is not None
    assert (sample.reward, sample.lowest, sample.highest) == (2.0, 1.0, 3.0)
    assert sample.text == scored.completions[3].text
    assert typical_sample([unscored]) is None


def test_the_picture_is_kept_between_steps_and_its_clock_moves() -> None:
    state = progress_after(3)
    picture = Picture(state)
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    calls: list[int] = []
    draw = picture._draw
    picture._draw = lambda *args: calls.append(1) or draw(*args)  # type: ignore[func-returns-value, method-assign]
    frames = []
    for seconds in (30.0, 35.0):
        state.clock = lambda seconds=seconds: seconds  # type: ignore[misc]
        with console.capture() as capture:
            console.print(picture)
        frames.append(capture.get())
    assert len(calls) == 1
    assert "0:30 gone" in frames[0]
    assert "0:35 gone" in frames[1]


def test_wide_characters_count_two() -> None:
    assert set_size("日本語", 4) == "日 …"
    assert cell_len(set_size("日本語", 5)) == 5
    assert set_size("ab", 4) == "ab  "


def lines_of(fill: Callable[[PlainScreen], None]) -> list[str]:
    stream = io.StringIO()
    with PlainScreen(stream) as screen:
        screen.start(SUMMARY)
        fill(screen)
    return stream.getvalue().splitlines()


def run_steps(screen: PlainScreen, num_steps: int) -> None:
    for step in range(1, num_steps + 1):
        groups = make_groups(step)
        screen.progress("rollout", 1, 8)
        screen.step(make_metrics(step, groups), groups)


def test_a_log_has_one_line_a_step_and_a_header_every_twenty() -> None:
    lines = lines_of(lambda screen: run_steps(screen, 45))[3:]
    headers = [i for i, line in enumerate(lines) if "reward" in line and "tok/s" in line]
    assert headers == [0, HEADER_EVERY + 1, 2 * HEADER_EVERY + 2]
    assert len(lines) == 45 + 3
    assert lines[45 + 2].split()[0] == "45/60"
    assert max(map(len, lines)) < 120
    assert all(line.isascii() for line in lines)


def test_a_log_whose_reader_has_gone_does_not_stop_training() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    screen = PlainScreen(Closed())
    screen.start(SUMMARY)
    run_steps(screen, 2)


def test_an_ascii_log_takes_any_note() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    PlainScreen(stream).note("naïve ✓")
    assert stream.buffer.getvalue() == b"na?ve ?\n"


def test_without_a_terminal_the_screen_is_plain() -> None:
    assert isinstance(make_screen(io.StringIO()), PlainScreen)
    quiet = make_screen(is_quiet=True)
    quiet.start(SUMMARY)
    quiet.note("unseen")


PROGRAM = """
import sys
import time
sys.path.insert(0, {folder!r})
from synthetic import *
from groupwise.runs import make_screen
screen = make_screen()
print(type(screen).__name__)
screen.start(SUMMARY)
groups = make_groups(1)
screen.step(make_metrics(1, groups), groups)
print("printed by a reward")
screen.note("a note that stays")
{ending}
"""


def on_a_terminal(ending: str) -> tuple[int, bytes]:
    """Exit code and everything that a program writes to a terminal of 80 x 24."""
    ours, theirs = pty.openpty()
    program = PROGRAM.format(folder=str(Path(__file__).parent), ending=ending)
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "PYTHONIOENCODING": "utf-8"}
    child = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    output = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the child has closed its end
            break
        if not piece:
            break
        output += piece
    os.close(ours)
    return child.wait(timeout=30), output


@pytest.mark.parametrize(
    ("ending", "last_words"),
    [
        ("screen.close('all done')", b"all done"),
        ("screen.close(); screen.start(SUMMARY); screen.close('all done')", b"all done"),
        ("with screen: raise ValueError('boom')", b"boom"),
        ("with screen: raise KeyboardInterrupt", b"KeyboardInterrupt"),
        ("raise ValueError('nobody closed it')", b"nobody closed it"),
    ],
)
def test_the_terminal_is_given_back(ending: str, last_words: bytes) -> None:
    code, output = on_a_terminal(ending)
    assert code == (0 if "close(" in ending else 1) or "Interrupt" in ending
    assert b"LiveScreen" in output
    assert b"step 1/60" in output
    assert b"printed by a reward" in output
    assert b"a note that stays" in output
    assert last_words in output
    assert output.count(b"\x1b[?25l") >= 1
    assert output.rfind(SHOW_CURSOR) > output.rfind(b"\x1b[?25l"), "the cursor is visible again"


CHILD = """
import os, signal, threading
held, forked = threading.Event(), threading.Event()
def draw():  # the picture is being drawn, in its own thread, when the child is forked
    with screen._console._lock, screen._live._lock:
        held.set()
        forked.wait()
threading.Thread(target=draw).start()
held.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    print(type(sys.stdout).__name__, "printed by a child", flush=True)
    print("an error of a child", file=sys.stderr)
    sys.exit(0)
forked.set()
status = os.waitpid(pid, 0)[1]
screen.close(f"the child ended with {status}")
"""


def test_a_forked_child_prints_past_the_picture() -> None:
    code, output = on_a_terminal(CHILD)
    assert code == 0
    assert b"TextIOWrapper printed by a child" in output
    assert b"an error of a child" in output
    assert b"the child ended with 0" in output


CLOSED = """
import os, threading, time
with open({file!r}, "w") as result:
    for _ in range(40):
        groups = make_groups(2)
        screen.step(make_metrics(2, groups), groups)
        print("printed by a reward")
        screen.note("a note")
        time.sleep(0.05)
    screen.close("all done")
    result.write(f"{{os.isatty(1)}} {{threading.active_count()}}")
"""


def test_a_terminal_that_is_closed_does_not_stop_training(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    program = PROGRAM.format(folder=str(Path(__file__).parent), ending=CLOSED.format(file=str(tmp_path / "result")))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
    child = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    os.read(ours, 100)
    time.sleep(0.5)
    os.close(ours)
    assert child.wait(timeout=60) == 0
    assert (tmp_path / "result").read_text() == "False 1"


def test_half_a_character_does_not_silence_the_screen() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    screen = make_screen(stream)
    screen.note("half \ud83d")
    screen.note("whole")
    stream.seek(0)
    assert stream.read() == "half ?\nwhole\n"
