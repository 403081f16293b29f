"""Tests of the table of metrics: it knows every key."""

from __future__ import annotations

from groupwise.runs import METRICS, unknown_keys
from groupwise.runs.metrics import find

from .synthetic import make_evaluation, make_groups, make_metrics


def test_every_key_has_one_line() -> None:
    keys = [metric.key for metric in METRICS]
    assert len(keys) == len(set(keys))
    assert all(metric.definition.endswith(".") and metric.unit for metric in METRICS)


def test_a_family_knows_its_members_and_nothing_else() -> None:
    metrics = make_metrics(1, make_groups(1))
    assert unknown_keys({**metrics, **make_evaluation(metrics), "schema_version": 2}) == []
    assert unknown_keys(["rewards/file.py:f/mean", "rewards/x", "reward_", "kll", "rewards//mean"]) == [
        "kll",
        "reward_",
        "rewards//mean",
        "rewards/x",
    ]
    found = find("eval_rewards/length/mean")
    assert found is not None
    assert found.key == "eval_rewards/<function>/mean"


def test_a_healthy_range_has_a_source() -> None:
    bare = [m.key for m in METRICS if m.healthy and not m.source]
    assert bare == []
