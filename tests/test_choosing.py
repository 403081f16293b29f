"""The page of the knobs is filled from what was measured: tables, words and pictures of made-up runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = "".join(
    f"<!-- {name} -->\nold\n<!-- /{name} -->\n"
    for name in ("source", "group-size", "beta", "learning-rate", "scale", "reward", "seed")
)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, docs_script: Any, tmp_path: Path) -> Any:
    """docs/fill_choosing.py with a page of its own."""
    for name in ("blocks", "fill_choosing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = docs_script("fill_choosing")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / module.PAGE).write_text(f"# Knobs\n{BLOCKS}by hand\n")
    monkeypatch.setattr(module, "DOCS", tmp_path / "docs")
    return module


def run(distance: float, **more: Any) -> dict[str, Any]:
    steps = [-60.0, -50.0, -40.0, -distance]
    curves = {
        "distance": steps,
        "hit": [0.0, 0.1, 0.2, 0.5],
        "kl": [1e-12, 0.01, None, 0.5],
        "seconds": [9.0, 2.0, 3.0, 2.0],
    }
    return {
        "num_completions": 64,
        "seconds": 100.0,
        "seconds_with_loading": 120.0,
        "peak_bytes": 1.5 * 2**30,
        "last_kl": 0.512,
        "last_steps": 2,
        "last_distance": {"mean": -distance, "stderr": 1.25},
        "last_hit": {"mean": 0.35, "stderr": 0.1},
        "steps_until_close": 12,
        "no_signal": 0.5,
        "held_out": {"before": -61.0, "after": -22.0},
        "curves": curves,
        **more,
    }


STUDIES = {
    "group-size": {"4": "num_generations=4 prompts_per_step=4", "8": "baseline"},
    "beta": {"0": "beta=0", "0.04": "baseline"},
    "learning-rate": {"5e-4": "baseline"},
    "scale": {"group_std": "baseline"},
    "reward": {"distance": "baseline"},
    "seed": {"42": "baseline", "1": "seed=1"},
}


@pytest.fixture
def result(tmp_path: Path) -> dict[str, Any]:
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"cores": 2, "cpu": "a CPU"},
        "recipe": "small.yaml",
        "is_quick": False,
        "close": 30.0,
        "studies": STUDIES,
        "runs": {
            "baseline": run(20.0),
            "num_generations=4 prompts_per_step=4": run(31.5, steps_until_close=None, held_out=None, last_kl=None),
            "seed=1": run(25.0),
        },
    }


def fill(script: Any, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    path = script.DOCS / "result.json"
    path.write_text(json.dumps(result))
    monkeypatch.setattr(sys, "argv", ["fill_choosing.py", "--result", str(path), *arguments])
    script.main()
    return (script.DOCS / script.PAGE).read_text()


def test_what_was_measured_is_on_the_page_and_the_rest_stays(
    script: Any, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "drawn", lambda *arguments: b"picture")
    page = fill(script, result, monkeypatch, "--to", str(script.DOCS))
    for line in (
        "| 4 | 31.5 ± 1.2 | 35% | not reached | - | - | 50% | 2.5 s | 1.50 GiB |",
        "| 8 (as it is) | 20.0 ± 1.2 | 35% | 12 steps | 61, 22 | 0.51 | 50% | 2.5 s | 1.50 GiB |",
        "Nearest: **8 (as it is)**, 20.0 characters off at 2.5 s a step. Farthest: **4**, 31.5 at 2.5 s. They are 11.5 "
        "apart: more than seeds alone make (5.0).",
        "groupwise train recipes/small.yaml --set num_generations=4 --set prompts_per_step=4  # 4",
        "groupwise train recipes/small.yaml  # 8 (as it is)",
        "![Group size: characters from 50, step by step](images/choosing-group-size.png)",
        "`python bench/choosing.py`, 3 runs of 64 completions, 6 minutes with loading and evaluation, 2 cores of a "
        "CPU, 2026-01-02",
        "by hand",
    ):
        assert line in page.splitlines()
    assert "<!-- beta -->\nold\n<!-- /beta -->" in page, "a study with a run missing was filled in"
    assert (script.DOCS / "images" / "choosing-seed.png").read_bytes() == b"picture"
    assert not (script.DOCS / "images" / "choosing-beta.png").exists()


def test_without_other_seeds_nothing_is_said_about_luck(script: Any, result: dict[str, Any]) -> None:
    del result["runs"]["seed=1"]
    assert script.luck(result) is None
    assert "apart" not in script.block(result, "group-size")


@pytest.mark.parametrize("name", ["group-size", "seed"])
def test_the_same_figures_give_the_same_picture(script: Any, result: dict[str, Any], name: str) -> None:
    png = script.drawn(result, name)
    assert png.startswith(b"\x89PNG")
    assert script.drawn(result, name) == png


@pytest.mark.parametrize("below", [None, "kl", "hit"])
def test_a_value_that_was_not_measured_is_left_out_of_the_picture(script: Any, below: str | None) -> None:
    with script.styled(script.LIGHT):
        figure = script.picture({"a": run(20.0), "b": run(30.0)}, script.Study("Title", "knob", below))
    panels = figure.axes
    assert len(panels) == (1 if below is None else 2)
    assert [line.get_label() for line in panels[0].lines] == ["a", "b"]
    assert script.colors({"a": {}, "b (as it is)": {}})[1] == script.LIGHT.cycle[0]
    if below == "kl":
        assert list(panels[1].lines[0].get_xdata()) == [1, 2, 4]


def test_a_smoke_test_is_refused_on_the_project_s_own_page(
    script: Any, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="smoke test"):
        fill(script, {**result, "is_quick": True}, monkeypatch, "--to", str(script.DOCS))
    fill(script, {**result, "is_quick": True}, monkeypatch, "--to", str(tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / script.PAGE).is_file()
