"""The examples of docs/data.md run, and what it says of the packaged data is so."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from groupwise.data import RESERVED_COLUMNS, load_problems
from groupwise.data.python_docs import EVAL_TOPICS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_examples_run() -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    namespace: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "docs/data.md", "exec"), namespace)
    assert len(examples) == 5


def test_every_reserved_column_is_named() -> None:
    assert all(f"`{name}`" in PAGE for name in RESERVED_COLUMNS)


def test_every_held_out_topic_is_named() -> None:
    assert all(f"`{topic}`" in PAGE for topic in EVAL_TOPICS)


@pytest.mark.skipif(sys.version_info[:3] != (3, 11, 7), reason="other Pythons carry a slightly different text")
def test_the_sizes_are_those_of_this_python() -> None:
    train, evaluation = load_problems("python-docs"), load_problems("python-docs", split="eval")
    assert f"| 3.11 | {len(train)} | {len(evaluation)} |" in PAGE
