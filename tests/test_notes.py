"""Notes: each one on the screen of its own trainer, once, and in the application's log as its levels say."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from api_helpers import CHATS, trainer
from transformers import TrainerCallback

from groupwise.data import load_problems
from groupwise.notes import shown_by
from groupwise.runs.plain_screen import PlainScreen

LOG = logging.getLogger("groupwise.somewhere")
WITH_A_NOTE = [{"prompt": "p", "completion": "c"}]
"""Rows with a column that is left out, with a note."""


class Recorded(PlainScreen):
    """A screen that keeps its notes."""

    def __init__(self) -> None:
        super().__init__(None)
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@contextmanager
def a_program(level: int | None = None) -> Iterator[io.StringIO]:
    """Logging without pytest's handlers: not configured, or as `logging.basicConfig(level=level)` does it."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, before = root.handlers, root.level
    root.handlers = [] if level is None else [logging.StreamHandler(stream)]
    root.setLevel(logging.WARNING if level is None else level)
    try:
        yield stream
    finally:
        root.handlers = handlers
        root.setLevel(before)


def test_a_note_is_shown_whatever_the_levels_and_without_secrets(capfd: Any) -> None:
    shown: list[str] = []
    with a_program(), shown_by(shown.append):
        LOG.info("good to know, 100%")
        LOG.warning("see hf_%s", "a" * 20)
        LOG.debug("not for users")
        logging.getLogger("groupwisely").warning("another package's")
    assert shown == ["good to know, 100%", "see ***"]
    assert capfd.readouterr().err == "another package's\n", "nothing of ours is shown a second time"


def test_outside_logging_is_the_application_s(capfd: Any) -> None:
    with a_program():
        with shown_by(lambda text: None):
            pass
        LOG.info("good to know")
        LOG.warning("to be seen")
    assert capfd.readouterr().err == "to be seen\n"
    package = logging.getLogger("groupwise")
    assert (package.level, package.propagate, package.handlers) == (logging.NOTSET, True, [])


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR])
def test_an_application_gets_what_its_level_lets_through_once(level: int) -> None:
    def log() -> None:
        for number in (logging.DEBUG, logging.INFO, logging.WARNING):
            LOG.log(number, logging.getLevelName(number))

    shown: list[str] = []
    with a_program(level) as stream:
        log()
        outside = stream.getvalue()
        with shown_by(shown.append):
            log()
    assert stream.getvalue() == outside * 2
    assert shown == ["INFO", "WARNING"]


def test_a_level_of_one_logger_is_kept() -> None:
    LOG.setLevel(logging.DEBUG)
    try:
        with a_program(logging.ERROR) as stream, shown_by(lambda text: None):
            LOG.debug("asked for")
            logging.getLogger("groupwise.elsewhere").warning("not asked for")
    finally:
        LOG.setLevel(logging.NOTSET)
    assert stream.getvalue() == "asked for\n"


def test_caplog_sees_each_record_once(caplog: pytest.LogCaptureFixture) -> None:
    with shown_by(lambda text: None):
        LOG.warning("inside")
        with caplog.at_level(logging.INFO):
            LOG.info("inside, too")
    LOG.warning("outside")
    assert caplog.messages == ["inside", "inside, too", "outside"]


def test_the_innermost_shows_and_threads_are_apart() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with a_program(logging.WARNING) as stream, shown_by(outer.append):
        with shown_by(inner.append):
            LOG.info("inner")
        LOG.info("outer")
        thread = threading.Thread(target=LOG.warning, args=("nobody's",))
        thread.start()
        thread.join()
    assert (outer, inner, stream.getvalue()) == (["outer"], ["inner"], "nobody's\n")


def test_two_trainers_show_their_own_notes_alone(tmp_path: Path, capfd: Any) -> None:
    """One is made and trains in a thread while the other one is in the middle of its step."""
    screens = [Recorded(), Recorded()]
    rows = [{**row, "completion": "gold"} for row in CHATS]

    def run(number: int, *callbacks: Any) -> None:
        rest = {"screen": screens[number], "callbacks": callbacks}
        trainer(tmp_path / str(number), data=rows, rest=rest, max_steps=1, save_strategy="no").train()

    class RunsAnother(TrainerCallback):
        def on_step_end(self, *arguments: Any, **others: Any) -> None:
            thread = threading.Thread(target=run, args=(1,))
            thread.start()
            thread.join()

    with a_program():
        run(0, RunsAnother())
    assert screens[0].notes == screens[1].notes
    assert len([note for note in screens[0].notes if "columns: {reference: completion}" in note]) == 1
    assert "reference" not in capfd.readouterr().err


def test_a_plain_program_sees_warnings_on_standard_error() -> None:
    code = f"from groupwise.data import load_problems\nload_problems({WITH_A_NOTE!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.count("completion") >= 1
    assert len(done.stderr.splitlines()) == 1


def test_a_module_logs_under_its_own_name(caplog: pytest.LogCaptureFixture) -> None:
    load_problems(WITH_A_NOTE)
    assert [(record.name, record.levelname) for record in caplog.records] == [("groupwise.data.problems", "WARNING")]
