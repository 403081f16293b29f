"""Runs that go wrong in the way that a guard watches for: what is stopped, kept, told and gone back to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import model_folder, trainer, write_recipe
from tiny import tiny_model

from groupwise.cli import main
from groupwise.config.guards import BY_NAME
from groupwise.diagnose.doctor import examine
from groupwise.errors import GuardError
from groupwise.guards import measures as guards
from groupwise.lifecycle import run as run_module
from groupwise.report.about import about
from groupwise.report.ending import why_ended
from groupwise.report.page import page
from groupwise.runs.folder import RunFolder
from groupwise.runs.reader import RunReader
from groupwise.train import learner as learner_module
from groupwise.train.learner import Learner, Update
from groupwise.types import Completion

from .guarded import letters, only, sabotage, said, same, weights


def break_gradient(monkeypatch: pytest.MonkeyPatch, is_broken: Callable[[int], bool]) -> None:
    """Some rollouts give a gradient with a NaN in it."""
    backward = Learner._backward

    def broken(self: Learner, *arguments: Any) -> Any:
        stats = backward(self, *arguments)
        if is_broken(self.num_rollouts + 1):
            self.trained[0].grad.view(-1)[0] = math.nan
        return stats

    monkeypatch.setattr(Learner, "_backward", broken)


def test_a_healthy_run_is_left_alone(tmp_path: Path) -> None:
    settings = {"max_steps": 8, "num_generations": 4, "beta": 0.05, "max_completion_length": 12}
    trainer(tmp_path, rewards=letters, **settings).train()
    assert said(tmp_path) == said(tmp_path, "update_skipped") == []
    assert len(RunReader(tmp_path).metrics()) == 8


@pytest.mark.parametrize("lost", ["loss", "gradient"])
def test_an_update_that_is_not_finite_touches_nothing(lost: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Neither weights nor the optimizer's state nor the schedule: three steps are two when one is lost."""
    if lost == "gradient":
        break_gradient(monkeypatch, lambda rollout: rollout == 2)
    else:
        monkeypatch.setattr(learner_module, "policy_loss", _loss_that_is_lost_in_rollout_2(learner_module.policy_loss))
    seen_states: list[Any] = []
    step = Learner.update

    def update(self: Learner, batch: Any) -> Update:
        before = _state(self)
        result = step(self, batch)
        seen_states.append((before, _state(self), result))
        return result

    monkeypatch.setattr(Learner, "update", update)
    trainer(tmp_path, model=tiny_model(), rewards=letters, max_steps=3, warmup_steps=2, guards="off").train()
    moved = [not _equal(before, after) for before, after, _ in seen_states]
    assert moved == [True, False, True]
    (event,) = said(tmp_path, "update_skipped")
    assert event["step"] == 2
    assert ("the loss is nan" in event["message"]) == (lost == "loss")
    assert seen_states[1][2].num_skipped == 1


def test_a_reference_that_is_not_finite_is_named(tmp_path: Path) -> None:
    grpo = trainer(tmp_path, model=tiny_model(), rewards=letters, beta=0.04, max_steps=1)
    with torch.no_grad():
        grpo.parts.reference._frozen.model.model.norm.weight.fill_(math.nan)
    grpo.parts.reference._frozen.refresh()
    grpo.train()
    (event,) = said(tmp_path, "update_skipped")
    assert "the loss is nan (log-probs of the reference are not finite)" in event["message"]


def _loss_that_is_lost_in_rollout_2(policy_loss: Any) -> Any:
    calls = []

    def loss(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        value, stats = policy_loss(*arguments, **named)
        if len(calls) != 2:
            return value, stats
        return value * math.nan, type(stats)({**stats, "loss": type(stats["loss"])(math.nan)})

    return loss


def _state(learner: Learner) -> Any:
    optimizer = {
        (index, name): value.clone() if isinstance(value, torch.Tensor) else value
        for index, state in learner.optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    rates = [group["lr"] for group in learner.optimizer.param_groups]
    return weights(learner.policy_model.model), optimizer, rates, learner.scheduler.last_epoch


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def test_three_updates_in_a_row_that_are_not_finite_stop_the_run(tmp_path: Path, monkeypatch: Any) -> None:
    break_gradient(monkeypatch, lambda rollout: rollout >= 3)
    grpo = trainer(tmp_path, rewards=letters, max_steps=9, save_steps=1, save_total_limit=1)
    with pytest.raises(GuardError, match=r"Guard non_finite \(stop\) at step 5: 3 updates in a row"):
        grpo.train()
    assert len(RunReader(tmp_path).metrics()) == 5
    assert [event["step"] for event in said(tmp_path, "update_skipped")] == [3, 4, 5]
    assert 4 in RunFolder(tmp_path).checkpoint_steps(), "one from before the guard acted is kept, whatever the limit"
    assert any((tmp_path / "final").iterdir())
    assert all(bool(p.isfinite().all()) for p in grpo.model.parameters())


REWARDS: dict[str, Any] = {
    "constant": lambda completions, **columns: [1.0] * len(completions),
    "none": lambda completions, **columns: [None] * len(completions),
    "numbered": lambda completions, **columns: [float(number) for number, _ in enumerate(completions)],
}
RUNS: dict[str, dict[str, Any]] = {
    "truncated": {"max_completion_length": 1},
    "no_signal": {"rewards": REWARDS["constant"]},
    "unscored": {"rewards": REWARDS["none"]},
    "kl": {"beta": 0.01, "learning_rate": 1.0, "guards": {"threshold": 4}},
    "entropy": {"learning_rate": 1.0, "guards": {"threshold": 1.0}},
}
"""Guard -> a run that calls it: settings of the run, bounds that tiny models reach in a few steps."""


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_goes_wrong_is_stopped_and_says_why(name: str, tmp_path: Path) -> None:
    settings = {"rewards": letters, "max_steps": 6, "num_generations": 4, **RUNS[name]}
    settings["guards"] = only(name, action="stop", **RUNS[name].get("guards", {}))
    with pytest.raises(GuardError, match=rf"Guard {name} \(stop\) at step \d: "):
        trainer(tmp_path, **settings).train()
    (event,) = said(tmp_path)
    last = RunReader(tmp_path).metrics()[-1]["step"]
    assert (event["guard"], event["action"], event["step"]) == (name, "stop", last)
    assert BY_NAME[name].is_beyond(event["value"], event["threshold"])
    assert RunFolder(tmp_path).checkpoint_steps() == [last]
    assert any((tmp_path / "final").iterdir())
    assert [e["is_complete"] for e in said(tmp_path, "end")] == [last == 6]


def _same_token(version: int, c: Completion) -> Completion:
    return replace(c, token_ids=(9,) * len(c.token_ids))


def _end_at_once(version: int, c: Completion) -> Completion:
    return replace(c, token_ids=(1,), rollout_logprob=c.rollout_logprob[:1], stop_reason="stop")


def _stale(version: int, c: Completion) -> Completion:
    return replace(c, rollout_logprob=tuple(x - 0.05 * (version >= 6) for x in c.rollout_logprob))


@pytest.mark.parametrize(
    ("name", "change", "step"),
    [
        ("repeated_token", _same_token, 1),
        ("empty", _end_at_once, 1),
        ("one_answer", _end_at_once, 1),
        ("mismatch", _stale, 7),
    ],
)
def test_bad_rollouts_are_told(name: str, change: Any, step: int, tmp_path: Path, monkeypatch: Any) -> None:
    settings = {"max_steps": 9, "max_completion_length": 9, "num_generations": 4, "beta": 0.0}
    grpo = trainer(tmp_path, rewards=REWARDS["numbered"], guards=only(name), **settings)
    sabotage(monkeypatch, change)
    grpo.train()
    (event,) = said(tmp_path)
    assert (event["guard"], event["action"], event["step"]) == (name, "warn", step)
    assert len(RunReader(tmp_path).metrics()) == 9


def test_an_exploding_gradient_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    backward = Learner._backward

    def exploding(self: Learner, *arguments: Any) -> Any:
        stats = backward(self, *arguments)
        for parameter in self.trained:
            parameter.grad.mul_(1e4 if self.num_rollouts >= guards.FEWEST_NORMS else 1.0)
        return stats

    monkeypatch.setattr(Learner, "_backward", exploding)
    trainer(tmp_path, rewards=letters, max_steps=12, beta=0.0, guards=only("grad_norm")).train()
    (event,) = said(tmp_path)
    assert (event["guard"], event["step"]) == ("grad_norm", 11)


# --- going back


ROLLBACK = {"kl": {"action": "rollback", "threshold": 1.0, "steps": 2}, "gap": "off"}


def exploding_kl(folder: Path, monkeypatch: pytest.MonkeyPatch, from_step: int = 4, **settings: Any) -> Any:
    """From that step on the weights are thrown about before each update."""
    step = Learner.update

    def update(self: Learner, batch: Any) -> Update:
        if self.num_rollouts + 1 >= from_step:
            with torch.no_grad():
                for parameter in self.trained:
                    parameter.mul_(1.5)
        return step(self, batch)

    monkeypatch.setattr(Learner, "update", update)
    common = {"beta": 0.1, "max_steps": 9, "learning_rate": 1e-3, "guards": ROLLBACK, "num_generations": 4}
    return trainer(folder, rewards=letters, **{**common, **settings})


def test_a_rollback_ends_with_the_last_good_model(tmp_path: Path, monkeypatch: Any) -> None:
    healthy = trainer(
        tmp_path / "healthy", rewards=letters, beta=0.1, max_steps=3, learning_rate=1e-3, num_generations=4,
        lr_scheduler_type="constant",
    )  # fmt: skip
    healthy.train()
    grpo = exploding_kl(tmp_path / "run", monkeypatch, save_steps=1, save_total_limit=1, lr_scheduler_type="constant")
    with pytest.raises(GuardError, match=r"Went back to the checkpoint of step 3: final/ holds its weights\.$"):
        grpo.train()
    folder = RunFolder(tmp_path / "run")
    assert same(weights(grpo.model), weights(healthy.model))
    saved = (folder.final / "model.safetensors").read_bytes()
    assert saved == (tmp_path / "healthy" / "final" / "model.safetensors").read_bytes()
    assert folder.checkpoint_steps() == [3], "a resumed run goes on from the good one"
    assert sorted(p.name for p in folder.path.glob("*checkpoint-*")) == ["checkpoint-3", "set-aside-checkpoint-4"]
    assert [record["step"] for record in RunReader(folder).metrics()] == [1, 2, 3, 4, 5], "the records tell the story"
    assert [event["to_step"] for event in said(folder.path, "rollback")] == [3]


def test_without_a_good_checkpoint_the_run_stops_as_it_is_and_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    grpo = exploding_kl(tmp_path, monkeypatch, from_step=2)
    with pytest.raises(GuardError, match=r"No checkpoint is older than step 2.*not to be trusted"):
        grpo.train()
    assert RunFolder(tmp_path).checkpoint_steps() == []
    assert any((tmp_path / "final").iterdir())


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, monkeypatch: Any) -> None:
    grpo = exploding_kl(tmp_path, monkeypatch, save_steps=1)
    roll_back = run_module.roll_back

    def damage(folder: RunFolder, *arguments: Any, **named: Any) -> int | None:
        (folder.checkpoint_of(3) / "state/state.json").unlink()
        return roll_back(folder, *arguments, **named)

    monkeypatch.setattr(run_module, "roll_back", damage)
    with pytest.raises(GuardError, match="Went back to the checkpoint of step 2"):
        grpo.train()


def test_a_resumed_run_stops_at_the_same_step(tmp_path: Path) -> None:
    """What a guard remembers is in the checkpoint: without signal from the start, four steps in a row."""
    settings = {"rewards": REWARDS["constant"], "guards": {"no_signal": {"action": "stop", "steps": 4}}, "beta": 0.0}
    with pytest.raises(GuardError, match="at step 4"):
        trainer(tmp_path / "whole", max_steps=9, **settings).train()
    trainer(tmp_path / "parts", max_steps=3, **settings).train()
    with pytest.raises(GuardError, match="at step 4"):
        trainer(tmp_path / "parts", max_steps=9, **settings).train(resume_from_checkpoint=True)
    states = [json.loads((tmp_path / run / "checkpoint-4" / "state" / "state.json").read_text())["parts"]["guards"]
              for run in ("whole", "parts")]  # fmt: skip
    assert states[0] == states[1]


# --- the command


def test_the_command_ends_with_its_own_exit_code_and_the_report_says_it(tmp_path: Path, capsys: Any) -> None:
    recipe = write_recipe(
        tmp_path / "r.yaml", model_folder(tmp_path / "tiny"), rewards=[{"name": "exact_match"}], max_steps=4,
        guards={"no_signal": {"action": "stop", "steps": 2}},
    )  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main(["train", str(recipe), "--quiet"])
    assert end.value.code == 3
    assert "Guard no_signal (stop) at step 2" in capsys.readouterr().err
    run = RunReader(tmp_path / "run-of-recipe")
    assert len(run.metrics()) == 2
    text = page(about(run.config, "run"), examine(run), run.events(), (), (), "", why_ended(run.events(), 2))
    verdict = text.partition("Guard no_signal (stop) at step 2")[0]
    assert 0 < len(verdict) < text.index("<table"), "it stands at the top"
    assert "Guard" not in why_ended([*run.events(), {"kind": "resume"}], 2)
