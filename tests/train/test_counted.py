"""Rewards that are clipped and gated in a run: what the functions returned, and what counted, in the record."""

from __future__ import annotations

import pytest
from api_helpers import trainer

from groupwise.runs import RunReader


def test_a_run_records_what_counted(tmp_path):

    def longer(completions):
        return [float(len(text)) for text in completions]

    def even(completions):
        return [float(len(text) % 2 == 0) for text in completions]

    rewards = [even, {"function": longer, "clip": [0, 10], "normalise": "range", "when": {"even": 1}}]
    run = trainer(tmp_path, rewards=rewards, max_steps=2)
    run.train()
    reader = RunReader(run.output_dir)
    for metrics in reader.metrics():
        completions = [c for group in reader.completions(metrics["step"]) for c in group["completions"]]
        counted = [c["counted"]["longer"] for c in completions]
        assert all(0 <= value <= c["rewards"]["even"] for value, c in zip(counted, completions, strict=True))
        assert metrics["rewards/longer/counted"] == pytest.approx(sum(counted) / len(counted))
        assert metrics["rewards/longer/mean"] == pytest.approx(
            sum(c["rewards"]["longer"] for c in completions) / len(completions)
        )
        assert "rewards/even/counted" not in metrics
        total = [c["rewards"]["even"] + value for value, c in zip(counted, completions, strict=True)]
        assert metrics["reward"] == pytest.approx(sum(total) / len(total))
    (_, gated) = reader.config["recipe"]["rewards"]
    assert gated == {
        "function": "longer",
        "weight": 1.0,
        "clip": [0, 10],
        "normalise": "range",
        "when": {"even": 1},
    }
