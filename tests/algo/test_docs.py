"""The pages about the algorithm: their examples run, every preset has its row, every path leads somewhere."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import get_args

import pytest

from groupwise.algo import Objective, axes

ROOT = Path(__file__).parents[2]
PAGES = ("algorithm.md", "often-copied-wrong.md", "grpo-ppo-dpo.md")
ALGORITHM = (ROOT / "docs" / "algorithm.md").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {"__name__": "docs"})


def test_every_preset_has_its_row() -> None:
    table = ALGORITHM.split("## Every named algorithm")[1].split("\n## ")[0]
    named = {
        name for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert named == set(Objective.preset_names())


def test_every_value_of_every_axis_is_explained() -> None:
    for name in ("Baseline", "Scale", "TrustRegion", "Anchor", "Level", "Aggregation"):
        for value in get_args(getattr(axes, name)):
            assert f"`{value}`" in ALGORITHM, f"{name} {value}"
    for value in set(get_args(axes.KL)) - {"none"}:
        assert f"| `{value}` |" in ALGORITHM


def test_every_path_and_function_exists() -> None:
    for path, names in re.findall(r"`groupwise/(algo/\w+)\.py`((?: `\w+`|, `\w+`)*)", ALGORITHM):
        module = importlib.import_module(f"groupwise.{path.replace('/', '.')}")
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(module, name), f"{path} {name}"
    for page in PAGES:
        for test in re.findall(r"`(tests/algo/test_\w+\.py)`|`(test_\w+\.py)`", (ROOT / "docs" / page).read_text()):
            name = (test[0] or f"tests/algo/{test[1]}").strip()
            assert (ROOT / name).is_file(), name
