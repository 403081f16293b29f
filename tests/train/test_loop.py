"""Whole runs of a tiny model: what happens in which order, what is recorded, what a signal does."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import ROWS, trainer
from tiny import tiny_model, with_lora
from transformers import TrainerCallback

from groupwise.runs.folder import RunFolder
from groupwise.runs.metrics import unknown_keys
from groupwise.runs.reader import RunReader

EVENTS = [name for name in vars(TrainerCallback) if name.startswith("on_")]


class Listener(TrainerCallback):
    """Writes down which event came when."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.logs: list[dict[str, Any]] = []

    def __getattribute__(self, name: str) -> Any:
        if name not in EVENTS:
            return super().__getattribute__(name)

        def hear(args: Any, state: Any, control: Any, **context: Any) -> None:
            self.heard.append(f"{name} {state.global_step}")
            assert name == "on_init_end" or {"model", "processing_class"} <= context.keys()
            if name == "on_log":
                self.logs.append(context["logs"])

        return hear


def letters(completions: list[str], **columns: Any) -> list[float]:
    """A reward that differs between almost any two completions."""
    return [float(sum(map(ord, completion)) % 17) for completion in completions]


def constant(completions: list[str], **columns: Any) -> list[float]:
    return [1.0] * len(completions)


def history(folder: Path) -> list[dict[str, Any]]:
    return RunReader(folder).metrics()


def test_callbacks_hear_the_documented_events_in_order(tmp_path):
    listener = Listener()
    settings = {"max_steps": 2, "save_steps": 2, "eval_steps": 1, "eval_on_start": True, "logging_steps": 1}
    grpo = trainer(tmp_path, rewards=letters, rest={"callbacks": [listener], "eval_dataset": ROWS[:2]}, **settings)
    grpo.train()
    step = "on_step_begin {0} on_optimizer_step {1} on_step_end {1} on_log {1} on_log {1} on_evaluate {1}"
    expected = (
        "on_init_end 0 on_train_begin 0 on_log 0 on_evaluate 0 on_epoch_begin 0 "
        f"{step.format(0, 1)} {step.format(1, 2)} on_save 2 on_log 2 on_train_end 2"
    )
    assert " ".join(listener.heard) == expected
    assert [entry["step"] for entry in grpo.state.log_history] == [0, 1, 1, 2, 2, 2]
    assert ["eval_reward" in log for log in listener.logs] == [True, False, True, False, True, False]
    assert ["loss" in log for log in listener.logs] == [False, True, False, True, False, False]


def test_every_pass_over_the_data_begins_with_its_event(tmp_path):
    listener = Listener()
    rest = {"callbacks": [listener]}
    trainer(tmp_path, rewards=letters, rest=rest, max_steps=8, prompts_per_step=2).train()  # 6 rows: 3 steps a pass
    assert [heard for heard in listener.heard if "epoch" in heard] == [f"on_epoch_begin {step}" for step in (0, 3, 6)]


def test_a_callback_can_ask_for_a_checkpoint_an_evaluation_and_the_end(tmp_path):
    class Asks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **context: Any) -> None:
            control.should_save = state.global_step == 2
            control.should_training_stop = state.global_step == 4

        def on_step_begin(self, args: Any, state: Any, control: Any, **context: Any) -> None:
            control.should_evaluate = state.global_step == 2  # the step that now begins is number 3

    rest = {"callbacks": [Asks], "eval_dataset": ROWS[:2]}
    trainer(tmp_path, rewards=letters, rest=rest, max_steps=9).train()
    assert RunFolder(tmp_path).checkpoint_steps() == [2, 4]
    assert [record["step"] for record in history(tmp_path) if record.get("eval_reward") is not None] == [3]
    assert len(history(tmp_path)) == 4


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything on": {
        "beta": 0.1, "num_iterations": 2, "entropy_coef": 0.01, "eval_steps": 1, "dynamic_sampling": True, "top_k": 20,
        "repetition_penalty": 1.1,
    },
    "mismatch": {"beta": 0.0, "mismatch": "token_truncate", "mismatch_max": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_every_key_of_a_step_is_explained_and_finite_or_null(name, tmp_path):
    def sometimes(completions: list[str], **columns: Any) -> list[float | None]:
        return [None if number % 4 == 0 else 1.0 for number, _ in enumerate(completions)]

    rest = {"eval_dataset": ROWS[:2]}
    trainer(tmp_path, rewards=[letters, sometimes], rest=rest, num_generations=4, **SETTINGS[name]).train()
    records = history(tmp_path)
    assert len(records) == 2
    for record in records:
        assert unknown_keys(record) == []
        assert all(v is None or isinstance(v, int | float) for v in record.values())
        parts = sum(record[f"time/{part}"] for part in ("rollout", "reward", "learn", "other"))
        assert record["step_time"] == pytest.approx(parts)
        assert record["rewards/sometimes/unscored"] == 0.25
        assert record["completions/min_length"] <= record["completions/mean_length"] <= record["completions/max_length"]
    assert [r["policy_version"] for r in records] == [1, 2]
    assert [r["updates"] for r in records] == ([2, 4] if name == "everything on" else [1, 2])
    assert (records[0]["kl"] is None) == (name == "mismatch")
    assert (records[0]["beta"] == 0) == (name == "mismatch")
    if name != "everything on":
        assert all(r["clip_ratio/region_mean"] == 0.0 for r in records)


def test_rollout_and_learner_agree_in_the_records(tmp_path):
    trainer(tmp_path, rewards=letters, max_steps=3, beta=0.0, temperature=0.8).train()
    for record in history(tmp_path):
        assert record["sampling/mismatch"] == pytest.approx(1.0, abs=1e-4)
        assert record["sampling/sampling_logp_difference/max"] < 1e-4


def test_steps_cross_epochs_and_no_problem_is_lost(tmp_path):
    grpo = trainer(tmp_path, rewards=letters, data=ROWS[:5], max_steps=-1, num_train_epochs=2)
    grpo.train()
    records = history(tmp_path)
    assert [r["epoch"] for r in records] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    drawn = [[group["problem"] for group in RunReader(tmp_path).completions(step)] for step in range(1, 6)]
    assert all(len({json.dumps(p) for p in step}) == 2 for step in drawn)
    counts = Counter(json.dumps(p) for step in drawn for p in step)
    assert len(counts) == 5
    assert set(counts.values()) == {2}
    assert records[-1]["num_tokens"] == sum(
        len(g["prompt_ids"]) + len(c["ids"])
        for step in range(1, 6)
        for g in RunReader(tmp_path).completions(step)
        for c in g["completions"]
    )


def test_the_same_seed_is_the_same_run_and_another_is_not(tmp_path):
    texts = []
    for number, seed in enumerate((1, 1, 2)):
        trainer(tmp_path / str(number), rewards=letters, seed=seed).train()
        texts.append((tmp_path / str(number) / "completions" / "step-000002.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("engine", ["auto", "transformers"])
def test_the_users_model_comes_back_ordinary(tmp_path, implementation, engine):
    base = tiny_model(attn_implementation=implementation)
    frozen = {n: p.clone() for n, p in base.named_parameters()}
    model = with_lora(base)
    names = list(model.state_dict())
    grpo = trainer(tmp_path, model=model, rewards=letters, engine=engine)
    grpo.train()
    assert grpo.model is model
    assert model.config._attn_implementation == implementation
    assert list(model.state_dict()) == names
    ids = torch.tensor([[5, 6, 7, 8]])
    trained = model(ids).logits
    merged = model.merge_and_unload()
    assert merged.config._attn_implementation == implementation
    assert list(merged.state_dict()) == list(frozen)
    torch.testing.assert_close(merged(ids).logits, trained, rtol=1e-5, atol=2e-5)


def test_the_slow_engine_trains_the_same_model(tmp_path):
    models = []
    for engine in ("native", "transformers"):
        grpo = trainer(tmp_path / engine, rewards=letters, engine=engine, beta=0.1, max_steps=3, num_iterations=2)
        grpo.train()
        models.append(grpo.model)
    for (name, fast), slow in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        # AdamW divides by the gradient's size, so rounding decides about weights without one: compare the bulk
        assert (fast - slow).abs().mean() < 1e-3 * slow.abs().mean(), name
    texts = [(tmp_path / e / "completions" / "step-000001.jsonl").read_text() for e in ("native", "transformers")]
    ids = [[c["ids"] for line in t.splitlines() for c in json.loads(line)["completions"]] for t in texts]
    assert ids[0] == ids[1]


def signalling(number: int, times: int = 1) -> Any:
    """A reward function in whose second step the user presses Ctrl-C."""
    calls = 0

    def reward(completions: list[str], **columns: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 2:
            for _ in range(times):
                signal.raise_signal(number)
        return letters(completions)

    return reward


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_the_step_and_saves(tmp_path, number):
    before = signal.getsignal(number)
    grpo = trainer(tmp_path, rewards=signalling(number), max_steps=5)
    grpo.train()
    assert signal.getsignal(number) is before
    assert [record["step"] for record in history(tmp_path)] == [1, 2]
    assert RunFolder(tmp_path).checkpoint_steps() == [2]
    assert grpo.interrupted.exit_code == 128 + number
    assert any((tmp_path / "final").iterdir())


def test_a_second_ctrl_c_stops_at_once_and_keeps_the_finished_steps(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    grpo = trainer(tmp_path, rewards=signalling(signal.SIGINT, times=2), max_steps=5)
    with pytest.raises(KeyboardInterrupt):
        grpo.train()
    assert signal.getsignal(signal.SIGINT) is before
    assert [record["step"] for record in history(tmp_path)] == [1]


def test_evaluations_and_checkpoints_come_when_due(tmp_path):
    settings = {"max_steps": 5, "eval_steps": 2, "save_steps": 3}
    trainer(tmp_path, rewards=letters, rest={"eval_dataset": ROWS[:2]}, **settings).train()
    evaluated = [record["step"] for record in history(tmp_path) if record.get("eval_reward") is not None]
    assert evaluated == [2, 4, 5]  # after the last step too, as in transformers
    assert RunFolder(tmp_path).checkpoint_steps() == [
        3,
        5,
    ]  # the last step is kept in any case: a longer run goes on from it


@pytest.mark.parametrize(
    ("settings", "starts_anew"),
    [({}, [1]), ({"ref_model_reset_steps": 2}, [1, 3]), ({"sync_ref_model": True, "ref_model_sync_steps": 2}, [1])],
)
def test_a_reset_brings_the_kl_back_to_0(tmp_path, settings, starts_anew):
    trainer(tmp_path, rewards=letters, max_steps=4, beta=0.05, num_generations=4, **settings).train()
    kl = {record["step"]: record["kl"] for record in history(tmp_path)}
    assert [step for step, value in kl.items() if value < 1e-6] == starts_anew


def test_a_run_without_any_signal_changes_nothing_and_says_so(tmp_path):
    model = tiny_model()
    trainer(tmp_path, model=model, rewards=constant, beta=0.0).train()
    for record in history(tmp_path):
        assert (record["frac_reward_zero_std"], record["loss"], record["grad_norm"]) == (1.0, 0.0, 0.0)
        assert record["entropy"] > 0.1, "a policy that has collapsed is found by it"
        assert record["frac_reward_zero_std/solved"] == 0.0, "no reward was ever lower"
        assert record["sampling/mismatch"] is None
    for mine, theirs in zip(model.parameters(), tiny_model().parameters(), strict=True):
        assert torch.equal(mine, theirs)
