"""Finite rewards that no statistic can carry are refused like infinite ones, with function, completion and value."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from api_helpers import trainer
from torch import nn

from groupwise.algo import advantages, process_advantages
from groupwise.errors import ConfigError, RewardError
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.rounding import LARGEST

from .groups import make_group

ABSURD = [
    1e308, -1e308, 1e200, 1e155, -3e38, 1e30, 2e15, float("inf"), 10**400, -(10**400), 10**18, Decimal("1e400"),
    np.float64(1e300), np.float32(1e38), torch.tensor(1e30),
]  # fmt: skip


def returning(values: list[Any], name: str = "mine") -> Any:
    def function(completions: list[str]) -> list[Any]:
        return values

    function.__name__ = name
    return function


def score(*specs: Any, num: int = 2) -> Any:
    group = make_group("p", [f"text {i}" for i in range(num)])
    return RewardScorer(resolve_rewards(list(specs))).score([group]).groups[0]


@pytest.mark.parametrize("value", ABSURD, ids=repr)
def test_a_reward_too_large_for_statistics_gets_the_message_of_an_infinite_one(value: Any) -> None:
    pattern = (
        r'Reward function "mine" returned -?(inf|\d[\d.e+]+), which no baseline can be computed from; return a large '
        r"finite number instead, of at most 1e\+15 in size\. It was for completion 2 .*'text 1'"
    )
    with pytest.raises(RewardError, match=pattern):
        score(returning([1.0, value]))


@pytest.mark.parametrize("value", [1e15, -1e15, 1e-320, 0, -1e9])
def test_a_large_number_that_statistics_can_carry_is_taken(value: float) -> None:
    assert score(returning([1.0, value])).reward == (1.0, value)


def test_a_mixture_is_refused_by_its_absurd_one() -> None:
    with pytest.raises(RewardError, match=r'"mine" returned 1e\+200, .*completion 3'):
        score(returning([None, 1.0, 1e200, float("nan")]), num=4)


def test_the_reward_of_a_step_too() -> None:
    with pytest.raises(RewardError, match=r'"mine" returned -1e\+308, which no baseline'):
        score(returning([[(1, 0.5), (2, -1e308)], 1.0]))


def test_clipping_does_not_save_it() -> None:
    """What a function returned is recorded and averaged as it is, clipped or not."""
    with pytest.raises(RewardError, match=r"1e\+308, which no baseline"):
        score({"function": returning([1.0, 1e308]), "clip": [-1, 1]})


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        (
            [{"function": returning([1.0, 1e10]), "weight": 1e10}],
            r'"mine" counts 1e\+10 x weight 1e\+10 = 1e\+20, .*completion 2',
        ),
        (
            [{"function": returning([1e10, 1.0], "a"), "times": "b"}, {"function": returning([-1e10, 1.0], "b")}],
            r'"a" counts -1e\+20 x weight 1 = -1e\+20, .*completion 1',
        ),
        (
            [{"function": returning([1e14] * 2), "weight": w} for w in (100, -100)],
            r'"mine" counts 1e\+14 x weight 100 = 1e\+16',
        ),
    ],
    ids=["weight", "product", "terms that cancel"],
)
def test_what_weights_and_products_make_absurd_is_refused(specs: Any, words: str) -> None:
    with pytest.raises(RewardError, match=words):
        score(*specs)


def test_a_product_that_overflows_is_refused() -> None:
    specs = [{"function": returning([1e15] * 2, "a"), "times": ["b"] * 25}, {"function": returning([1e15] * 2, "b")}]
    with pytest.raises(RewardError, match='"a" counts inf x weight 1 = inf'):
        score(*specs)


@pytest.mark.parametrize("weight", [1e308, -1e16])
def test_an_absurd_weight_is_refused_before_anything_is_sampled(weight: float) -> None:
    with pytest.raises(
        ConfigError, match=r'The weight of reward "mine" is .*; give a finite number, at most 1e\+15 in size'
    ):
        resolve_rewards([returning([])], weights=[weight])


def test_absurd_ends_of_a_clip_are_refused() -> None:
    with pytest.raises(ConfigError, match="clip of a reward is"):
        resolve_rewards([{"function": returning([]), "clip": [-1e308, 1e308], "normalise": "range"}])


@pytest.mark.parametrize("value", [1e308, -1e200, 1e16, float("inf")])
def test_advantages_refuse_them_too(value: float) -> None:
    for rewards in ([1.0, value], [[1.0, 0.0], [value, None]], torch.tensor([1.0, value], dtype=torch.float64)):
        with pytest.raises(RewardError, match=r"a reward is .*: infinite.*at most 1e\+15 in size"):
            advantages(rewards, [0, 0])
    with pytest.raises(RewardError, match="infinite"):
        process_advantages([[1], [1]], [[1.0], [value]], [0, 0], [1, 1])


def test_the_largest_rewards_have_finite_advantages_and_statistics(tmp_path: Path) -> None:
    for scale in ("none", "group_std", "batch_std"):
        found = advantages([LARGEST, -LARGEST, 0.0], [0] * 3, "group_mean", scale)  # type: ignore[arg-type]
        assert bool(found.float().isfinite().all())
        assert bool((found.float() ** 2).isfinite().all())


# --- a run ---


def test_a_run_stops_before_it_trains_or_records_one(tmp_path: Path) -> None:
    run = trainer(tmp_path, rewards=lambda completions, **_: [1e308] * len(completions))
    before = [p.detach().clone() for p in run.model.parameters()]
    with pytest.raises(RewardError, match=r"1e\+308, which no baseline can be computed from"):
        run.train()
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    assert not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").read_text()


def test_an_evaluation_stops_too(tmp_path: Path) -> None:
    run = trainer(tmp_path, rewards=lambda completions, **_: [-1e300] * len(completions))
    with pytest.raises(RewardError, match=r"-1e\+300, which no baseline"):
        run.evaluate([{"prompt": "a", "answer": "b"}])


def test_a_reward_model_stops_too(tmp_path: Path) -> None:
    class Huge(nn.Module):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return type("Out", (), {"logits": torch.full((len(input_ids), 1), 1e37)})()

    tokenizer = trainer(tmp_path).processing_class
    rewards = resolve_rewards([Huge()], processing_classes=[tokenizer])
    with pytest.raises(RewardError, match=r"e\+3\d, which no baseline"):
        RewardScorer(rewards).score([make_group("p", ["x"])])


def test_logged_metrics_that_are_not_finite_break_no_record(tmp_path: Path) -> None:
    def logs(completions: list[str], log_metric: Any, **_: Any) -> list[float]:
        for name, value in (("inf", float("inf")), ("nan", float("nan")), ("huge", 1e308), ("huge", 1e308)):
            log_metric(name, value)
        log_metric("fine", 2)
        return [float(len(text)) for text in completions]

    run = trainer(tmp_path, rewards=logs, max_steps=2, save_steps=1)
    run.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = {name.removeprefix("extra/"): value for name, value in lines[0].items() if name.startswith("extra/")}
    assert found == {"inf": None, "nan": None, "huge": None, "fine": 2}
    assert "extra/fine" in run.state.log_history[0]
    assert {"extra/inf", "extra/nan", "extra/huge"} & set(run.state.log_history[0]) == set()
    run.state.save_to_json(str(tmp_path / "state.json"))
    json.loads((tmp_path / "state.json").read_text(), parse_constant=lambda name: pytest.fail(name))
