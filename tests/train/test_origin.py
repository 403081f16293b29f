"""What a run belongs to: data of any kind has a fingerprint that another process finds again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import trainer

from groupwise.errors import ConfigError, DataError
from groupwise.runs.reader import RunReader


class State:
    """An object without a text of its own."""

    def __init__(self, number: int) -> None:
        self.number = number


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("it cannot be printed")

    __repr__ = __str__


def column(number: int) -> dict[str, Any]:
    """A cell that JSON cannot hold."""
    loop: list[Any] = [number]
    loop.append(loop)
    return {
        (number, 1): "a tuple",
        "b": {1: "one", None: 2, 2.5: [3]},
        "loop": loop,
        "set": {"x", "y", "z"},
        "bytes": b"\xff",
        "nan": float("nan"),
        "object": State(number),
        "mute": Mute(),
        "function": column,
        "tensor": torch.eye(2),
        "lock": sys,
    }


def rows(start: int = 0) -> list[dict[str, Any]]:
    return [
        {"prompt": f"say {i}", "meta": column(i + start), "cell": State(i), "long": [i, 10**5000]} for i in range(4)
    ]


def looks(completions: list[str], meta: list[Any], cell: list[State], **columns: Any) -> list[float]:
    assert all(each[(state.number, 1)] == "a tuple" for each, state in zip(meta, cell, strict=True))
    return [float(len(completion)) for completion in completions]


def train(folder: Path, *, resume: bool = False, start: int = 0, **settings: Any) -> None:
    """A run on such data, in this process."""
    grpo = trainer(folder, rewards=looks, data=rows(start), **settings)
    grpo.train(resume_from_checkpoint=resume or None)


def test_a_column_of_any_values_is_carried_and_recorded(tmp_path: Path) -> None:
    train(tmp_path)
    groups = [group for step in (1, 2) for group in RunReader(tmp_path).completions(step)]
    assert len(groups) == 4
    for group in groups:
        meta, number = group["columns"]["meta"], group["problem"]
        assert meta[f"[{number}, 1]"] == "a tuple"
        assert meta["b"] == {"1": "one", "None": 2, "2.5": [3]}
        assert meta["loop"] == [number, "..."]
        assert (meta["set"], meta["bytes"], meta["nan"], meta["mute"]) == (["x", "y", "z"], "b'\\xff'", None, "<Mute>")
        assert group["columns"]["cell"] == f"<{__name__}.State object>"


PROGRAM = """
import sys; sys.path[:0] = {paths!r}
from pathlib import Path
import importlib
import groupwise.report
groupwise.report.write_report = lambda folder, _: folder.report / "index.html"
importlib.import_module({name!r}).train(Path({folder!r}), max_steps=1)
"""


def test_a_run_on_such_data_is_resumed_in_another_process(tmp_path: Path) -> None:
    here = Path(__file__).parent
    paths = [str(here.parent), str(here.parents[1])]
    program = PROGRAM.format(paths=paths, name=__name__, folder=str(tmp_path))
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=240)
    train(tmp_path, resume=True, max_steps=2)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["kind"] == "resume"] == [1]
    with pytest.raises(ConfigError, match="the data"):
        train(tmp_path, resume=True, max_steps=3, start=7)


def test_the_name_of_a_column_is_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Row 2 of .* has a column 7"):
        trainer(tmp_path, data=[{"prompt": "a"}, {"prompt": "b", 7: "c"}, {"prompt": "d"}])


def test_prompts_with_values_that_json_lacks_are_carried(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "say", "more": {(1, 2): {3}, 4: "x", "y": State(1)}}]
    done = trainer(tmp_path, data=[{"prompt": chat}] * 4).train()
    assert done.global_step == 2
