"""docs/architecture.md is so: its pictures are those of the code, its lists the calls of a real run."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import api_helpers
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = str(ROOT / "groupwise") + "/"
PAGE = ROOT / "docs" / "architecture.md"


@pytest.fixture
def draw_architecture(docs_script: Any) -> Any:
    """docs/draw_architecture.py."""
    return docs_script("draw_architecture")


def test_the_pictures_are_those_of_the_code(draw_architecture: Any) -> None:
    assert draw_architecture.stale_pictures() == [], "run python docs/draw_architecture.py"


def test_the_pictures_show_what_they_are_for(draw_architecture: Any) -> None:
    step, run = (draw() for draw in draw_architecture.PICTURES.values())
    order = ["Problems", "Order.draw", "Engine.generate", "RewardScorer.score", "policy_loss", "Tensor.backward"]
    places = [step.index(f">{name}<") for name in order]
    assert places == sorted(places)
    hooks = ["GuardMonitor", "COMMIT", "CallbackHook", "on_log", "on_evaluate", "on_save", "adapter_model.safetensors"]
    assert not [name for name in hooks if name not in run]


def listed(name: str) -> list[str]:
    """The functions of a numbered list of the page, as file:function."""
    (text,) = re.findall(rf"<!-- calls: {name} -->\n(.*?)<!-- /calls -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    calls = re.findall(r"^(\d+)\. `(\S+)`", text, re.MULTILINE)
    assert [int(number) for number, _ in calls] == list(range(1, len(calls) + 1))
    return [call for _, call in calls]


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Every call of a function of groupwise in a run of one step, in order, as file:function."""
    found: list[str] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            found.append(f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_code.co_qualname}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        api_helpers.trainer(tmp_path_factory.mktemp("traced") / "run", max_steps=1).train()
    finally:
        sys.setprofile(before)
    return found


@pytest.mark.parametrize("name", ["prompt", "metric"])
def test_a_run_calls_the_functions_of_the_lists_in_their_order(name: str, called: list[str]) -> None:
    rest = iter(called)
    missed = [function for function in listed(name) if function not in rest]
    assert missed == []
