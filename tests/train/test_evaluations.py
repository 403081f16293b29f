"""Evaluations during a run: each an entry of its own in log_history, on_log and trackers; early stopping stops."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from api_helpers import ROWS, trainer
from api_helpers import config as make_config
from histories import StopAfter, history, of_steps, timeless
from transformers import EarlyStoppingCallback, TrainerCallback

from groupwise import GRPOConfig
from groupwise.checkpoint.best import check_metric, is_measured
from groupwise.errors import ConfigError, RewardError
from groupwise.lifecycle.callbacks import Callbacks
from groupwise.policy.policy_model import Scoring
from groupwise.runs.folder import RunFolder
from groupwise.runs.metrics import evaluation_keys
from groupwise.runs.trackers import Trackers
from groupwise.train.batch import rows_of


class Ear(TrainerCallback):
    """Writes down every log and every evaluation with the step it came at, and what log_history held by then."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, set[str]]] = []
        self.logs: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **context: Any) -> None:
        self.heard.append(("log", state.global_step, set(logs)))
        self.logs.append({"step": state.global_step, **logs})
        assert state.log_history[-1] == {**logs, "step": state.global_step}

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, Any], **context: Any) -> None:
        self.heard.append(("evaluate", state.global_step, set(metrics)))
        assert metrics.items() <= state.log_history[-1].items()


class Tracker:
    """Keeps what it is handed."""

    name = "mine"

    def __init__(self) -> None:
        self.values: list[tuple[int, dict[str, float]]] = []

    def start(self, config: Any, run_name: str, folder: Any) -> None: ...

    def log(self, values: Any, step: int) -> None:
        self.values.append((step, dict(values)))

    def finish(self) -> None: ...


def rising(completions: list[str], **columns: Any) -> list[float]:
    """A reward that differs between almost any two completions."""
    return [float(sum(map(ord, completion)) % 17) for completion in completions]


def run(folder: Path, *callbacks: Any, resume: bool = False, rewards: Any = rising, **settings: Any) -> Any:
    rest = {"callbacks": list(callbacks), "eval_dataset": ROWS[:2]}
    grpo = trainer(folder, rewards=rewards, rest=rest, num_generations_eval=2, **settings)
    grpo.tracker = Tracker()
    grpo.trackers = Trackers([grpo.tracker], lambda *_: None)
    grpo.train(resume_from_checkpoint=resume)
    return grpo


def evaluations(entries: Any) -> list[int]:
    return [entry["step"] for entry in entries if "eval_reward" in entry]


def test_the_screen_learns_after_which_step_an_evaluation_was_made(tmp_path: Path) -> None:
    grpo = trainer(tmp_path, rest={"eval_dataset": ROWS[:2]}, eval_steps=1, eval_on_start=True, num_generations_eval=2)
    told: list[int] = []
    grpo.screen.evaluation = lambda metrics: told.append(metrics["step"])
    grpo.train()
    assert told == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "steps", "evaluated"),
    [
        ({"logging_steps": 5, "eval_steps": 3, "eval_on_start": True}, [5], [0, 3, 6]),
        ({"logging_steps": 2, "eval_steps": 3}, [2, 4, 6], [3, 6]),
        ({"logging_steps": 4, "eval_steps": 4}, [4], [4, 6]),
        ({"logging_steps": 0, "eval_steps": 2}, [], [2, 4, 6]),
        ({"logging_steps": 1, "eval_steps": 1}, [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
        ({"logging_steps": 4, "eval_strategy": "epoch"}, [4], [3, 6]),
        ({"logging_steps": 4, "eval_on_start": True}, [4], [0]),
    ],
    ids=str,
)
def test_every_evaluation_is_an_entry_of_its_own(
    tmp_path: Path, settings: dict[str, Any], steps: list[int], evaluated: list[int]
) -> None:
    ear = Ear()
    grpo = run(tmp_path, ear, max_steps=6, **settings)
    entries = grpo.state.log_history
    assert evaluations(entries) == evaluations(ear.logs) == evaluated
    assert [entry["step"] for entry in entries if "loss" in entry] == steps
    assert not any({"loss", "eval_reward"} <= entry.keys() for entry in entries), "no evaluation twice"
    assert [entry["step"] for entry in entries] == sorted(entry["step"] for entry in entries)
    assert all("epoch" in entry for entry in entries)
    tracked = [step for step, values in grpo.tracker.values if "eval/reward" in values]
    assert tracked == evaluated
    assert [step for step, values in grpo.tracker.values if "train/loss" in values] == steps
    by_step = {entry["step"]: entry for entry in entries if "eval_reward" in entry}
    for record in history(tmp_path):  # one line a step, its evaluation in it
        if record["step"] in by_step:
            assert record["eval_reward"] == by_step[record["step"]]["eval_reward"]
    assert len(history(tmp_path)) == 6


def test_an_evaluation_is_logged_before_on_evaluate_and_after_its_step(tmp_path: Path) -> None:
    ear = Ear()
    run(tmp_path, ear, max_steps=2, eval_steps=2)
    order = [("log", 1), ("log", 2), ("log", 2), ("evaluate", 2), ("log", 2)]
    assert [(event, step) for event, step, _ in ear.heard] == order
    assert "loss" in ear.heard[1][2]
    assert "eval_reward" in ear.heard[2][2]


@pytest.mark.parametrize("event", ["on_step_begin", "on_step_end"])
def test_a_callback_that_asks_for_an_evaluation_gets_it_at_that_step(tmp_path: Path, event: str) -> None:
    class Asks(TrainerCallback):
        def ask(self, args: Any, state: Any, control: Any, **context: Any) -> None:
            control.should_evaluate = state.global_step == (2 if event == "on_step_begin" else 3)

    setattr(Asks, event, Asks.ask)
    grpo = run(tmp_path, Asks, max_steps=3, logging_steps=0)
    assert evaluations(grpo.state.log_history) == [3]
    assert [record.get("eval_reward") is not None for record in history(tmp_path)] == [False, False, True]


def test_a_callback_that_asks_where_one_is_due_gets_one(tmp_path: Path) -> None:
    class Asks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **context: Any) -> None:
            control.should_evaluate = state.global_step == 2 or control.should_evaluate

    grpo = run(tmp_path, Asks, max_steps=4, eval_steps=2)
    assert evaluations(grpo.state.log_history) == [2, 4]


@pytest.mark.parametrize("eval_steps", [1, 2, 3])
def test_a_resumed_run_has_every_evaluation_once(tmp_path: Path, eval_steps: int) -> None:
    settings = {"max_steps": 4, "logging_steps": 3, "eval_steps": eval_steps, "eval_on_start": True}
    whole = run(tmp_path / "whole", **settings)
    run(tmp_path / "parts", StopAfter(2), **settings)
    parts = run(tmp_path / "parts", resume=True, **settings)
    assert timeless(parts.state.log_history) == timeless(whole.state.log_history)
    assert [step for step, values in parts.tracker.values if "eval/reward" in values] == [
        step for step in evaluations(whole.state.log_history) if step > 2
    ]


def test_an_evaluation_that_broke_off_is_logged_once(tmp_path: Path) -> None:
    calls = 0

    def rising(completions: list[str], **columns: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 3:  # two steps, then the evaluation
            raise ValueError("the server is gone")
        return [float(sum(map(ord, completion)) % 17) for completion in completions]

    settings = {"max_steps": 3, "logging_steps": 2, "eval_steps": 2}
    with pytest.raises(RewardError):
        run(tmp_path, rewards=rising, **settings)
    parts = run(tmp_path, resume=True, rewards=rising, **settings)
    entries = [(e["step"], "eval_reward" in e) for e in timeless(parts.state.log_history)]
    assert entries == [(2, False), (2, True), (3, True)]


def test_evaluating_by_hand_adds_the_same_kind_of_entry(tmp_path: Path) -> None:
    ear = Ear()
    grpo = run(tmp_path, ear, max_steps=2, eval_steps=2, logging_steps=0)
    by_run, by_hand = grpo.state.log_history[-2], grpo.evaluate()
    assert grpo.state.log_history[-1].keys() == by_run.keys()
    assert timeless([grpo.state.log_history[-1]]) == timeless([by_run])
    assert by_hand["eval_reward"] == by_run["eval_reward"]
    assert [event for event, *_ in ear.heard] == ["log", "evaluate", "log", "log", "evaluate"]


# --- the loss, of scripts that follow TRL ---


def evaluated_as_trl(folder: Path, **settings: Any) -> tuple[Any, list[Any]]:
    """A trainer under TRL's conventions, and the groups that its evaluation samples."""
    rest = {"eval_dataset": ROWS[:3]}
    made = trainer(folder, rewards=rising, rest=rest, conventions="trl", **{"beta": 0.0, **settings})
    evaluator, kept = made.parts.evaluators[0], []
    scored = evaluator._scored

    def keep(groups: Any, state: Any) -> Any:
        kept.extend(found := scored(groups, state))
        return found

    evaluator._scored = keep
    return made, kept


def normalised(group: Any) -> list[float]:
    spread = stdev(group.reward)
    return [(reward - fmean(group.reward)) / (spread + 1e-4) for reward in group.reward]


@pytest.mark.parametrize("batch", [2, 4, 100])
def test_the_loss_is_trls_of_each_batch(tmp_path: Path, batch: int) -> None:
    settings = {"num_generations_eval": 2, "per_device_eval_batch_size": batch, "max_completion_length": 64}
    made, groups = evaluated_as_trl(tmp_path, eval_steps=1, max_steps=1, **settings)
    found = made.evaluate()["eval_loss"]
    expected = 0.0
    for start in range(0, 3, max(1, batch // 2)):
        part = groups[start : start + max(1, batch // 2)]
        tokens = [len(c.token_ids) for group in part for c in group.completions]
        advantages = [a for group in part for a in normalised(group)]
        loss = -sum(a * n for a, n in zip(advantages, tokens, strict=True)) / sum(tokens)
        expected += loss * len(part) / 3
    assert len({len(c.token_ids) for group in groups for c in group.completions}) > 1, "else every loss is 0"
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    made.train()
    assert "eval_loss" in history(tmp_path)[0]


def test_the_loss_has_the_kl_to_the_reference(tmp_path: Path) -> None:
    made, groups = evaluated_as_trl(tmp_path, beta=0.5, num_generations_eval=2, loss_type="grpo", max_steps=4)
    assert made.evaluate()["eval_loss"] == pytest.approx(0.0, abs=1e-4), "the policy is the reference"
    made.train()
    groups.clear()
    found = made.evaluate()["eval_loss"]
    rows = rows_of(groups)
    scores = made.parts.reference.score(rows, Scoring())
    means = []
    for i, completion in enumerate(c for group in groups for c in group.completions):
        gap = scores.logprob_NT[i, : len(completion.token_ids)] - torch.tensor(completion.rollout_logprob)
        means.append(float((gap.exp() - gap - 1).mean()))
    assert fmean(means) > 1e-3
    assert found == pytest.approx(0.5 * fmean(means), rel=1e-3)


@pytest.mark.parametrize(
    "settings", [{"conventions": "groupwise"}, {"entropy_coef": 0.1}, {"top_entropy_quantile": 0.5}], ids=str
)
def test_no_loss_is_measured_where_it_costs_a_pass_or_nobody_follows_trl(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    rest = {"eval_dataset": ROWS[:1]}
    made = trainer(tmp_path, rewards=rising, rest=rest, **{"conventions": "trl", "beta": 0.0, **settings})
    assert "eval_loss" not in made.evaluate()


# --- the metric that checkpoints are compared by ---


@pytest.mark.parametrize("conventions", ["groupwise", "trl"])
@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("name", ["", "_math"])
def test_every_number_that_an_evaluation_writes_may_choose_the_best(
    tmp_path: Path, conventions: str, greedy: bool, name: str
) -> None:
    held_out = {"math": ROWS[:2]} if name else ROWS[:2]
    settings = {"conventions": conventions, "eval_greedy": greedy, "num_generations_eval": 2}
    written = trainer(tmp_path, rest={"eval_dataset": held_out}, **settings).evaluate()
    keys = [key for key in written if key != "epoch" and not key.startswith("time/")]
    assert sorted(keys) == sorted(
        k for k in evaluation_keys(f"eval{name}", ["short"]) if is_measured(config(**settings), k)
    )
    for key in keys:
        check_metric(config(metric_for_best_model=key, **settings), ["short"], [f"eval{name}"])
    with pytest.raises(ConfigError, match="which no evaluation measures"):
        check_metric(config(metric_for_best_model="eval_rewards/long/mean", **settings), ["short"], [f"eval{name}"])


def config(**settings: Any) -> Any:
    return make_config(Path(), **settings).settings


def test_less_of_a_loss_is_better() -> None:
    assert GRPOConfig(metric_for_best_model="eval_loss").greater_is_better is False
    assert GRPOConfig(metric_for_best_model="eval_loss", greater_is_better=True).greater_is_better is True


# --- early stopping ---

WATCHED = {"metric_for_best_model": "eval_reward", "eval_steps": 1, "max_steps": 8}


def scripted(values: list[float]) -> Any:
    """A reward whose evaluations are these numbers in turn, the last of them for ever. Training rewards are 0."""
    state = {"evaluations": 0}

    def reward(completions: list[str], prompts: list[str], **columns: Any) -> list[float]:
        if len(completions) > 2:  # a step: prompts_per_step x num_generations
            return [0.0] * len(completions)
        value = values[min(state["evaluations"], len(values) - 1)]
        state["evaluations"] += len(completions) == 1  # the greedy pass comes last
        return [value] * len(completions)

    return reward


def watched(folder: Path, values: list[float], *callbacks: Any, resume: bool = False, **settings: Any) -> Any:
    """One evaluation problem with two sampled completions and a greedy one."""
    rest = {"callbacks": list(callbacks), "eval_dataset": ROWS[:1]}
    fields = {"num_generations_eval": 2, "prompts_per_step": 3, **WATCHED, **settings}
    grpo = trainer(folder, rewards=scripted(values), rest=rest, **fields)
    grpo.train(resume_from_checkpoint=resume)
    return grpo


@pytest.mark.parametrize(
    ("values", "settings", "last"),
    [
        ([1.0], {}, 3),  # constant
        ([1.0], {"greater_is_better": True}, 3),
        ([1.0], {"load_best_model_at_end": True}, 3),
        ([1.0], {"load_best_model_at_end": True, "metric_for_best_model": None}, 3),
        ([1.0], {"metric_for_best_model": "reward"}, 3),
        ([1.0], {"metric_for_best_model": "rewards/reward/mean"}, 3),
        ([1.0], {"metric_for_best_model": "greedy_reward"}, 3),
        ([1.0, 2.0, 3.0], {}, 5),  # rises, then stands still
        ([3.0, 2.0, 1.0], {}, 3),  # falls
        ([3.0, 2.0, 1.0], {"greater_is_better": False}, 5),
        ([1.0, 2.0, 3.0], {"greater_is_better": False}, 3),
        ([1.0, 0.0, 2.0, 0.0], {}, 5),  # recovers once
        ([1.0], {"eval_steps": 2}, 6),
        ([1.0], {"eval_steps": 2, "logging_steps": 3, "save_steps": 5}, 6),
        ([1.0], {"eval_steps": None, "eval_strategy": "epoch"}, 6),
        ([1.0], {"eval_on_start": True}, 3),
        ([1.0], {"save_strategy": "no"}, 3),
    ],
    ids=str,
)
def test_early_stopping_stops(tmp_path: Path, values: list[float], settings: dict[str, Any], last: int) -> None:
    start = values[:1] if settings.get("eval_on_start") else []
    grpo = watched(tmp_path, [*start, *values], EarlyStoppingCallback(early_stopping_patience=2), **settings)
    assert grpo.state.global_step == last
    assert RunFolder(tmp_path).is_run
    assert len(history(tmp_path)) == last


def test_the_state_follows_every_evaluation_between_checkpoints(tmp_path: Path) -> None:
    seen: list[tuple[int, float | None, int | None]] = []

    class Watches(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **context: Any) -> None:
            seen.append((state.global_step, state.best_metric, state.best_global_step))

    grpo = watched(tmp_path, [2.0, 1.0, 5.0, 4.0], Watches, max_steps=5, save_steps=4)
    assert seen == [(0, None, None), (1, 2.0, 1), (2, 2.0, 1), (3, 5.0, 3), (4, 5.0, 3)]
    # of the steps with a checkpoint (4 and the last) the earlier one of two equal ones evaluated best
    assert grpo.state.best_model_checkpoint == str(RunFolder(tmp_path).checkpoint_of(4))


def test_early_stopping_goes_on_where_it_was_when_the_run_is_resumed(tmp_path: Path) -> None:
    values = [5.0, 4.0]
    watched(tmp_path, values, EarlyStoppingCallback(3), StopAfter(2))
    grpo = watched(tmp_path, values[1:], EarlyStoppingCallback(3), resume=True)
    assert (grpo.state.best_metric, grpo.state.best_global_step, grpo.state.global_step) == (5.0, 1, 4)


def test_a_best_of_another_metric_or_direction_is_forgotten_when_the_run_is_resumed(tmp_path: Path) -> None:
    for number, change in enumerate(({"metric_for_best_model": "greedy_reward"}, {"greater_is_better": False})):
        folder = tmp_path / str(number)
        watched(folder, [5.0], StopAfter(2))
        grpo = watched(folder, [4.0], resume=True, max_steps=3, **change)
        assert (grpo.state.best_metric, grpo.state.best_global_step) == (4.0, 3)


def test_the_configuration_decides_what_callbacks_compare() -> None:
    """`EarlyStoppingCallback` reads both from `args`, and takes no answer for "less is better"."""
    assert GRPOConfig(metric_for_best_model="reward").greater_is_better is True
    assert GRPOConfig(metric_for_best_model="reward", greater_is_better=False).greater_is_better is False
    best = GRPOConfig(load_best_model_at_end=True, eval_steps=1)
    assert (best.metric_for_best_model, best.greater_is_better) == ("eval_reward", True)
    assert GRPOConfig(**best.resolved()) == best
    assert (GRPOConfig().metric_for_best_model, GRPOConfig().greater_is_better) == (None, None)


def test_a_number_that_was_not_measured_is_in_no_entry() -> None:
    ear = Ear()
    callbacks = Callbacks([ear], GRPOConfig())
    callbacks.state.epoch, callbacks.state.global_step = 0.5, 3
    callbacks.evaluated({"eval_reward": None, "eval_greedy_reward": 2.0, "eval_x": float("nan")})
    assert callbacks.state.log_history == [{"eval_greedy_reward": 2.0, "epoch": 0.5, "step": 3}]
    assert [keys for _, _, keys in ear.heard] == [{"eval_greedy_reward", "epoch"}] * 2


def test_the_first_step_is_logged_where_the_configuration_asks_for_it(tmp_path: Path) -> None:
    settings = {"max_steps": 4, "logging_steps": 3, "logging_first_step": True}
    whole = run(tmp_path / "whole", **settings)
    assert [entry["step"] for entry in of_steps(whole.state.log_history)] == [1, 3]
    run(tmp_path / "parts", StopAfter(2), **settings)
    parts = run(tmp_path / "parts", resume=True, **settings)
    assert timeless(parts.state.log_history) == timeless(whole.state.log_history)


def test_callbacks_get_the_rows_of_both_data_sets(tmp_path: Path) -> None:
    class Looks(TrainerCallback):
        seen: tuple[Any, ...] = ()

        def on_train_begin(self, args: Any, state: Any, control: Any, **context: Any) -> None:
            type(self).seen = (context["train_dataloader"], context["eval_dataloader"])

    run(tmp_path, Looks, max_steps=1)
    train, held_out = Looks.seen
    assert [row for batch in train for row in batch] == ROWS
    assert next(iter(held_out)) == ROWS[:2]
