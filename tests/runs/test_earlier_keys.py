"""Keys of earlier versions are read under the names that they have now."""

from __future__ import annotations

import json
from pathlib import Path

from groupwise.config import GRPOConfig
from groupwise.runs.reader import RunReader

from .synthetic import write_run


def test_metrics_of_an_earlier_run_come_under_the_keys_of_today(tmp_path: Path) -> None:
    write_run(tmp_path, num_steps=1)
    path = tmp_path / "metrics.jsonl"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "reward_not_judged": 0.25, "rewards/f/not_judged": 0.5}) + "\n")
    (found,) = RunReader(tmp_path).metrics()
    assert (found["reward_unscored"], found["rewards/f/unscored"]) == (0.25, 0.5)
    assert not [key for key in found if "judged" in key]


def test_a_guard_under_its_earlier_name_is_taken_with_a_note() -> None:
    config = GRPOConfig(guards={"not_judged": {"steps": 7}})
    assert config.guards["unscored"].steps == 7
    assert "guards.not_judged is called guards.unscored now." in config.notes
