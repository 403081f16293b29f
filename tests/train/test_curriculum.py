"""A run follows its curriculum: what it draws, what it records, what it refuses before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from api_helpers import ROWS, trainer
from datasets import Dataset

from groupwise import GRPOConfig
from groupwise.errors import ConfigError, DataError
from groupwise.runs.reader import RunReader

LEVELLED = [{**row, "level": number // 2} for number, row in enumerate(ROWS)]


def short_word(completions: list[str], answer: list[str], **columns: Any) -> list[float]:
    """Every completion solves a problem whose word has three letters, and none any other."""
    return [float(len(word) == 3) for word in answer]


def never(completions: list[str], **columns: Any) -> list[float]:
    return [0.0] * len(completions)


def drawn(folder: Path, step: int) -> set[int]:
    return {group["problem"] for group in RunReader(folder).completions(step)}


def test_dropped_pools_are_drawn_no_more_and_the_record_shows_them(tmp_path: Path) -> None:
    weights = {"curriculum_easy_weight": 0.0, "curriculum_hard_weight": 1.0, "curriculum_patience": 1}
    trainer(tmp_path, rewards=short_word, max_steps=6, curriculum="pools", **weights).train()
    easy = {number for number, row in enumerate(ROWS) if len(row["answer"]) == 3}
    records = RunReader(tmp_path).metrics()
    assert records[-1]["curriculum/easy"] == len(easy) / len(ROWS)
    assert records[-1]["curriculum/hard"] == 1 - len(easy) / len(ROWS)
    assert not [step for step in range(4, 7) if drawn(tmp_path, step) & easy], "three steps are one epoch"
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert "learning to easy" in " ".join(e["change"] for e in events if e["kind"] == "curriculum")


@pytest.mark.parametrize("kind", [None, "numpy", "torch"])
def test_levels_rise_when_the_reward_named_says_so(kind: str | None, tmp_path: Path) -> None:
    def always(completions: list[str], **columns: Any) -> list[float]:
        return [2.0] * len(completions)

    data = Dataset.from_list(LEVELLED).with_format(kind)
    settings = {"curriculum": "levels", "curriculum_window": 2, "curriculum_reward": "always", "curriculum_review": 0}
    trainer(tmp_path, rewards=[never, always], data=data, max_steps=3, **settings).train()
    assert [record["curriculum/level"] for record in RunReader(tmp_path).metrics()] == [1.0, 2.0, 2.0]
    assert [drawn(tmp_path, step) for step in (1, 2, 3)] == [{0, 1}, {2, 3}, {4, 5}]


def test_without_a_curriculum_nothing_is_recorded(tmp_path: Path) -> None:
    trainer(tmp_path, rewards=never, max_steps=1).train()
    assert not [key for key in RunReader(tmp_path).metrics()[0] if key.startswith("curriculum")]


def test_what_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a column 'level'"):
        trainer(tmp_path, curriculum="levels")
    with pytest.raises(ConfigError, match=r'curriculum_reward is "nevr", and the rewards are never\. Did you mean'):
        trainer(tmp_path, rewards=never, curriculum="pools", curriculum_reward="nevr").train()
    with pytest.raises(ConfigError, match=r"curriculum_down_at 0\.7 is not below curriculum_up_at 0\.7"):
        GRPOConfig(curriculum="levels", curriculum_down_at=0.7)
    with pytest.raises(ConfigError, match="curriculum_hard_at 1 is not below curriculum_easy_at 1"):
        GRPOConfig(curriculum="pools", curriculum_hard_at=1.0)
    with pytest.raises(ConfigError, match=r"curriculum is 'pols'.*Did you mean .pools"):
        GRPOConfig(curriculum="pols")


def test_keys_of_another_curriculum_are_reported() -> None:
    config = GRPOConfig(curriculum="levels", curriculum_patience=3, curriculum_window=8)
    assert "curriculum_patience without effect: curriculum is levels." in config.notes
    assert not GRPOConfig(curriculum="pools", curriculum_patience=3).notes
