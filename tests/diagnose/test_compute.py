"""What became of the sampled tokens, when rewards were reached, and the plan against what it took."""

from __future__ import annotations

from typing import Any

import pytest

from groupwise.diagnose import compute, compute_use
from groupwise.types import StepGroup
from tests.diagnose.written import CASES, group, healthy, write


def one_of_each(step: int, rng: Any) -> list[StepGroup]:
    """Groups whose tokens have every fate, each completion of five tokens."""

    def made(place: int, rewards: list[float | None], cut: int | None = None, **options: Any) -> StepGroup:
        stops = ["length" if i == cut else "stop" for i in range(4)]
        return group(step, place, [("abcde", {"right": r}) for r in rewards], stops=stops, **options)

    return [
        made(0, [0.0, 1.0, 0.0, 1.0]),
        made(1, [1.0, 1.0, 1.0, 1.0]),
        made(2, [0.0, 0.0, 0.0, 0.0], is_used=False),
        made(3, [0.0, 1.0, None, 1.0], cut=3),
    ]


def test_every_token_has_one_fate(tmp_path):
    recipe = {"objective": {"mask_truncated": True}}
    use = compute_use(write(tmp_path / "run", one_of_each, num_steps=3, recipe=recipe))
    counts = [use.num_by_cause.get(cause, 0) for cause in compute.CAUSES]
    assert counts == [3 * 5 * n for n in (6, 4, 4, 1, 1)]
    assert use.num_tokens == 3 * 80
    assert sum(use.share_of(cause) for cause in compute.CAUSES) == pytest.approx(1)
    assert use.headline.startswith("240 tokens sampled: 38% gave gradient, 25% in groups without signal,")


def test_only_a_mask_takes_truncated_tokens_out(tmp_path):
    use = compute_use(write(tmp_path / "run", one_of_each, num_steps=1))
    assert compute.MASKED not in use.num_by_cause
    assert use.num_by_cause[compute.GRADIENT] == 35


def test_of_a_long_run_a_part_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "MOST_STEPS", 5)
    run = write(tmp_path / "run", one_of_each, num_steps=10)
    use = compute_use(run)
    assert (use.num_steps, use.num_steps_read, use.num_tokens) == (10, 5, 800)
    assert use.headline.startswith("About 800 tokens sampled")


def test_rewards_are_reached_in_order(tmp_path):
    use = compute_use(healthy(tmp_path / "run"))
    steps = [each.step for each in use.rewards_reached]
    assert len(steps) >= 3
    assert steps == sorted(steps)
    assert all(each.seconds == 5.0 * each.step and each.num_tokens == 1000 * each.step for each in use.rewards_reached)


def test_a_run_that_does_not_learn_has_reached_nothing(tmp_path):
    assert compute_use(CASES["policy_stands_still"](tmp_path / "run")).rewards_reached == ()


def test_the_plan_is_compared(tmp_path):
    plan = {"num_steps": 40, "memory_bytes": 2**29, "step_s": 4.0, "total_s": 160.0}
    run = write(tmp_path / "run", one_of_each, num_steps=40, config={"plan": plan})
    assert [str(each) for each in compute_use(run).plan] == [
        "memory: planned 0.50 GiB, was 1.00 GiB (2.00 times)",
        "time of a step: planned 4.0 s, was 5.0 s (1.25 times)",
        "time of the run: planned 2:40, was 3:20 (1.25 times)",
    ]


def test_a_run_under_way_has_no_total_to_compare(tmp_path):
    plan = {"num_steps": 50, "step_s": 4.0, "total_s": 200.0}
    run = write(tmp_path / "run", one_of_each, num_steps=40, config={"plan": plan})
    assert [each.what for each in compute_use(run).plan] == ["time of a step"]
