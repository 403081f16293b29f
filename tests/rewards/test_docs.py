"""The examples of docs/rewards.md run, and its tables name every parameter."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from groupwise.config.yaml_file import parse
from groupwise.rewards import SHIPPED, resolve_rewards

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_python_examples_run_in_order():
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in blocks("python"):
        exec(compile(block, "docs/rewards.md", "exec"), namespace)
    assert "forgetful" in namespace


@pytest.mark.parametrize("block", blocks("yaml"))
def test_the_recipe_examples_resolve(block, tmp_path):
    (tmp_path / "my_rewards.py").write_text(blocks("python")[0])
    specs = parse(block)["rewards"]
    functions = resolve_rewards(specs, folder=tmp_path)
    assert [f.weight for f in functions] == [s.get("weight", 1.0) if isinstance(s, dict) else 1.0 for s in specs]


def test_every_parameter_of_a_shipped_reward_has_a_line():
    for name, reward in SHIPPED.items():
        section = PAGE.split(f"### `{name}`")[1].split("\n#")[0]
        for field in dataclasses.fields(reward):
            assert f"| `{field.name}` |" in section, f"{name}.{field.name}"
