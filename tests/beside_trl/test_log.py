"""The log of scripts that import from `groupwise.trl` has TRL's numbers, for rewards typed in by hand.

`trl_log.json` is what TRL 1.16 logs for them (`python tests/beside_trl/typed_rewards.py` where TRL is installed).
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from beside_trl import typed_rewards as typed
from histories import history

import groupwise.trl
from groupwise import GRPOConfig, GRPOTrainer

THEIRS: dict[str, Any] = json.loads(typed.REFERENCE.read_text())


@pytest.mark.parametrize("every", [1, 2, 3])
def test_the_entries_have_trls_numbers(tmp_path: Path, every: int) -> None:
    ours = typed.log_of(groupwise.trl.GRPOTrainer, groupwise.trl.GRPOConfig, tmp_path, every)
    theirs = THEIRS[f"logging_steps {every}"]
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert {key: mine.get(key, "absent") for key in other if other[key] is None} == {
            key: None for key in other if other[key] is None
        }
        numbers = {key: value for key, value in other.items() if value is not None}
        assert {key: mine.get(key) for key in numbers} == pytest.approx(numbers, rel=1e-6)


def test_every_key_that_trl_logs_is_there(tmp_path: Path) -> None:
    ours = typed.log_of(groupwise.trl.GRPOTrainer, groupwise.trl.GRPOConfig, tmp_path, 1)
    assert sorted(set(THEIRS["keys"]) - ours[0].keys()) == []


def test_the_run_folder_has_one_definition_of_a_key(tmp_path: Path) -> None:
    typed.log_of(groupwise.trl.GRPOTrainer, groupwise.trl.GRPOConfig, tmp_path / "trl", 1)
    typed.log_of(GRPOTrainer, GRPOConfig, tmp_path / "own", 1)
    mine, other = history(tmp_path / "trl"), history(tmp_path / "own")
    keys = [key for key in mine[0] if key.startswith(("reward", "frac"))]
    assert [{key: record[key] for key in keys} for record in mine] == [
        {key: record[key] for key in keys} for record in other
    ]
    assert mine[0]["extra/hand_made"] == 2.5
    sums = [[1.0, 2.5, 4.0, 9.0], [-0.5, 0.5, 0.5, 3.0]]  # of the first step: first + 0.5 x second
    assert mine[0]["reward_std"] == pytest.approx(fmean(stdev(group) for group in sums))
