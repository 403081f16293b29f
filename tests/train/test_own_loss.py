"""A loss of the user's own: called like `groupwise.algo.policy_loss`, in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import trainer
from histories import StopAfter, history

from groupwise.algo import policy_loss
from groupwise.errors import ConfigError, TrainingError


def the_objectives(*args: Any, **kwargs: Any) -> Any:
    return policy_loss(*args, **kwargs)


def reinforce(objective: Any, logprob_NT: Any, mask_NT: Any, advantages: Any, *, step_weights: Any, **_: Any) -> Any:
    return -(step_weights.weight_NT * advantages[:, None] * logprob_NT).sum()


def train(folder: Path, loss: Any, *, resume: bool = False, rest: Any = None, **settings: Any) -> dict[str, Any]:
    run = trainer(folder, rest={"policy_loss": loss, **(rest or {})}, **settings)
    run.train(resume_from_checkpoint=resume)
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


def differ(one: dict[str, Any], other: dict[str, Any]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_the_objectives_own_loss_gives_the_same_bits(tmp_path: Path) -> None:
    settings = {"num_generations": 4, "optim": "sgd"}
    mine = train(tmp_path / "a", the_objectives, **settings)
    assert differ(mine, train(tmp_path / "b", None, **settings)) == 0.0
    assert [m["kl"] for m in history(tmp_path / "a")] == [m["kl"] for m in history(tmp_path / "b")]


def test_a_loss_weighted_by_the_step_does_not_depend_on_the_cut(tmp_path: Path) -> None:
    settings = {"num_generations": 4, "max_steps": 1, "optim": "sgd", "beta": 0.0, "max_grad_norm": 0}
    whole = train(tmp_path / "a", reinforce, **settings)
    cut = train(tmp_path / "b", reinforce, micro_batch_tokens=20, **settings)
    assert differ(whole, cut) < 1e-6
    assert differ(whole, train(tmp_path / "c", None, **settings)) < 1e-5, "on-policy the clipped loss has its gradient"
    twice = train(tmp_path / "d", lambda *args, **kwargs: 2 * reinforce(*args, **kwargs), **settings)
    assert differ(whole, twice) > 1e-3, "it is the user's own"
    records = [history(tmp_path / name)[0] for name in "abd"]
    assert records[0]["loss"] == pytest.approx(records[1]["loss"], rel=1e-5)
    assert records[2]["loss"] == pytest.approx(2 * records[0]["loss"], rel=1e-5)
    assert records[0]["policy_loss"] == records[0]["loss"]


def test_rows_without_advantage_are_passed_too(tmp_path: Path) -> None:
    def likelier(objective: Any, logprob_NT: Any, mask_NT: Any, *_: Any, step_weights: Any, **__: Any) -> Any:
        return -(step_weights.weight_NT * logprob_NT).sum()

    settings = {"rewards": lambda completions: [1.0] * len(completions), "beta": 0.0, "max_steps": 1, "optim": "sgd"}
    before = train(tmp_path / "a", None, **settings)
    assert differ(before, train(tmp_path / "b", likelier, **settings)) > 0


def test_the_record_names_it_and_another_one_is_another_experiment(tmp_path: Path) -> None:
    train(tmp_path, reinforce, max_steps=3, save_steps=1, rest={"callbacks": [StopAfter(2)]})
    assert json.loads((tmp_path / "run.json").read_text())["used"]["policy_loss"].endswith("test_own_loss.reinforce")
    with pytest.raises(ConfigError, match="policy_loss was"):
        train(tmp_path, None, resume=True, max_steps=3, save_steps=1)
    train(tmp_path, reinforce, resume=True, max_steps=3, save_steps=1)
    assert len(history(tmp_path)) == 3


@pytest.mark.parametrize(
    "value", [0.0, torch.zeros(2, requires_grad=True), torch.zeros(())], ids=["float", "two", "cut"]
)
def test_what_is_no_loss_is_named(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TrainingError, match=r"policy_loss returned .*one number with a gradient"):
        train(tmp_path, lambda *args, **kwargs: value)


def test_what_cannot_be_called_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy_loss is 'dapo'.*called like groupwise\.algo\.policy_loss"):
        trainer(tmp_path, rest={"policy_loss": "dapo"})
