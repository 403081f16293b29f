"""The screen in a notebook: one output of the cell that is redrawn, and notes as lines."""

from __future__ import annotations

import builtins
import re
import sys
import types
from typing import Any

import pytest

from groupwise.runs import make_screen
from groupwise.runs.notebook import WIDTH, as_html
from groupwise.runs.screen import LiveScreen, Picture

from .synthetic import SUMMARY, make_evaluation, make_groups, make_metrics
from .test_screen import progress_after


class Cell:
    """What IPython's `display` would show below a cell."""

    def __init__(self) -> None:
        self.outputs: list[str] = []
        self.num_updates = 0

    def display(self, shown: str, *, display_id: bool) -> Any:
        assert display_id
        self.outputs.append(shown)
        place = len(self.outputs) - 1

        def update(again: str) -> None:
            self.outputs[place] = again
            self.num_updates += 1

        return types.SimpleNamespace(update=update)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """This process, as it is inside a kernel of Jupyter."""
    cell = Cell()
    shown = types.ModuleType("IPython.display")
    vars(shown).update(HTML=str, display=cell.display)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    return cell


def test_a_long_run_leaves_one_output_and_its_notes(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    screen = make_screen()
    assert isinstance(screen, LiveScreen)
    with screen:
        screen.start(SUMMARY | {"steps": 300})
        for step in range(1, 301):
            groups = make_groups(step)
            screen.step(make_metrics(step, groups), groups)
        screen.evaluation({**make_evaluation(make_metrics(300, make_groups(300))), "step": 300})
        screen.note("A checkpoint was written.")
        screen.close("300 of 300 steps done.")
    assert len(cell.outputs) == 1
    assert "step 300/300" in re.sub(r"<[^>]*>", "", cell.outputs[0])
    assert cell.num_updates < 300
    assert capsys.readouterr().out == "A checkpoint was written.\n300 of 300 steps done.\n"


def test_a_picture_becomes_text_without_a_script() -> None:
    state = progress_after(20, run_name="<script>alert(1)</script>")
    html = as_html(Picture(state))
    assert html.startswith("<pre style=")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert len(html) < 100_000
    assert WIDTH >= 80


def test_a_quiet_run_shows_nothing(cell: Cell) -> None:
    with make_screen(is_quiet=True) as screen:
        screen.start(SUMMARY)
    assert cell.outputs == []
