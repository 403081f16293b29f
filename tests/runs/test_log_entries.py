"""The entries of the log: means over the steps since the last one, TRL's definitions, the log that records give."""

from __future__ import annotations

import math
from typing import Any

import pytest

from groupwise.runs import trl_metrics
from groupwise.runs.log_entries import entry, evaluation_entry, history
from groupwise.runs.metrics import METRICS, find

RECORDS: list[dict[str, Any]] = [
    {"step": 1, "epoch": 0.25, "loss": 1.0, "reward": 2.0, "kl": None, "learning_rate": 0.5, "num_tokens": 10},
    {"step": 2, "epoch": 0.50, "loss": 2.0, "reward": 5.0, "kl": 0.5, "learning_rate": 0.4, "num_tokens": 30},
    {"step": 3, "epoch": 0.75, "loss": 6.0, "reward": math.nan, "kl": 0.1, "learning_rate": 0.3, "num_tokens": 60},
    {"step": 4, "epoch": 1.00, "loss": 7.0, "reward": 1.0, "kl": 0.2, "learning_rate": 0.2, "num_tokens": 90},
]


def test_an_entry_has_means_and_of_counters_the_last_value() -> None:
    assert entry(RECORDS[:3]) == {
        "step": 3, "epoch": 0.75, "loss": 3.0, "reward": 3.5, "kl": pytest.approx(0.3), "learning_rate": 0.3,
        "num_tokens": 60,
    }  # fmt: skip


def test_the_entry_of_one_step_has_its_numbers() -> None:
    assert entry(RECORDS[:1]) == {k: v for k, v in RECORDS[0].items() if v is not None}


def test_whole_numbers_of_a_record_stay_whole() -> None:
    assert isinstance(entry(RECORDS)["num_tokens"], int)


def test_an_evaluation_is_no_part_of_a_steps_entry() -> None:
    record = {**RECORDS[0], "eval_reward": 3.0, "time/eval": 1.5}
    assert entry([record]) == entry(RECORDS[:1])
    assert evaluation_entry({"eval_reward": 3.0, "time/eval": 1.5}, 0.25) == {
        "eval_reward": 3.0, "time/eval": 1.5, "eval_runtime": 1.5, "epoch": 0.25
    }  # fmt: skip


@pytest.mark.parametrize(("steps", "left"), [([1, 2, 3, 4], 0), ([2, 4], 0), ([3], 1), ([1, 3], 1), ([2], 2), ([], 4)])
def test_the_history_of_records(steps: list[int], left: int) -> None:
    past = history(RECORDS, lambda step: step in steps, {})
    assert [found["step"] for found in past.entries] == steps
    assert past.since == RECORDS[4 - left :]
    before = [0, *steps]
    for first, last, found in zip(before, before[1:], past.entries, strict=False):
        assert found == entry(RECORDS[first:last])


def test_an_evaluation_before_the_first_step_is_the_first_entry_and_stands_once() -> None:
    at_start = {"eval_reward": 1.0}
    records = [{**RECORDS[0], **at_start}, {**RECORDS[1], "eval_reward": 2.0}]
    past = history(records, lambda step: True, at_start)
    assert [(found["step"], found.get("eval_reward")) for found in past.entries] == [
        (0, 1.0),
        (1, None),
        (2, None),
        (2, 2.0),
    ]


# --- TRL's definitions ---

STEP: dict[str, Any] = {
    "step": 1, "reward": 1.0, "reward_std": 0.5, "reward_std/step": 0.75, "extra/mine": 3.0, "extra/reward": 9.0,
    "rewards/f/mean": None, "rewards/f/std": None, "completions/mean_terminated_length": None,
    "completions/min_terminated_length": None, "completions/max_terminated_length": None,
}  # fmt: skip


def test_trls_definitions_stand_under_trls_keys() -> None:
    found = entry([STEP], is_trl=True)
    assert found["reward_std"] == 0.75
    assert (found["mine"], found["reward"]) == (3.0, 1.0), "a name of the user's own hides no metric"
    assert (found["rewards/f/mean"], found["rewards/f/std"]) == (None, None)
    assert [found[f"completions/{k}_terminated_length"] for k in ("mean", "min", "max")] == [0.0, 0.0, 0.0]
    assert entry([STEP]) == {k: v for k, v in STEP.items() if v is not None}


def test_a_mean_over_steps_leaves_out_what_one_of_them_did_not_measure() -> None:
    second = {**STEP, "rewards/f/mean": 4.0, "completions/min_terminated_length": 6}
    found = entry([STEP, second], is_trl=True)
    assert found["rewards/f/mean"] == 4.0
    assert found["completions/min_terminated_length"] == 3.0, "TRL counts a step without an end as 0"


def test_every_key_of_the_table_is_measured_here_or_the_table_says_that_it_is_not() -> None:
    for metric in trl_metrics.TRL_METRICS:
        measured = find(metric.source or metric.key) is not None
        assert measured != metric.difference.startswith("never") or metric.key == "<name>", metric.key


def test_what_an_entry_takes_from_the_last_step_are_places_and_not_measurements() -> None:
    assert {metric.key for metric in METRICS if metric.is_last} == {
        "step", "epoch", "updates", "policy_version", "num_tokens", "grad_norm", "learning_rate", "memory_peak_bytes",
        "curriculum/level",
    }  # fmt: skip
