"""Whole runs over fake servers: they learn, they lag exactly, and interrupted they are the uninterrupted ones."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from api_helpers import trainer
from histories import StopAfter, history
from rollout.served.fake import FakeServer
from rollout.served.served import smallest_model
from tiny import with_lora

from groupwise.errors import GroupwiseError, RolloutError
from groupwise.rollout.publish import VersionWriter

COMMON: dict[str, Any] = {
    "max_steps": 4,
    "num_generations": 3,
    "max_completion_length": 5,
    "learning_rate": 0.02,
    "beta": 0.0,
    "mismatch": "token_truncate",
    "server_timeout": 30,
    "request_timeout": 30,
}


def letters(completions: list[str], **columns: Any) -> list[float]:
    return [float(completion.count("a") + completion.count("e")) for completion in completions]


def policy() -> Any:
    return with_lora(smallest_model(), is_learnt=False)


@contextmanager
def servers(num: int = 1, **options: Any):
    with ExitStack() as stack:
        yield [stack.enter_context(FakeServer(smallest_model(), **options)) for _ in range(num)]


def run(folder: Path, fakes: list[FakeServer], rest: Any = None, model: Any = None, **settings: Any) -> Any:
    urls = [fake.url for fake in fakes]
    model = policy() if model is None else model
    return trainer(folder, model=model, rewards=letters, rest=rest, servers=urls, **{**COMMON, **settings})


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def versions(folder: Path) -> list[set[int]]:
    """Step by step, the versions that its completions carry."""
    files = sorted((folder / "completions").glob("step-*.jsonl"))
    return [{json.loads(line)["policy_version"] for line in file.read_text().splitlines()} for file in files]


@pytest.mark.parametrize("mode", ["lora", "weights"])
def test_a_run_over_servers_leaves_its_record_and_nothing_else(tmp_path, mode):
    model = policy() if mode == "lora" else smallest_model()
    with servers(2) as fakes:
        run(tmp_path / "run", fakes, model=model).train()
        assert fakes[0].models.keys() == {"base"}
    rows = metrics(tmp_path / "run")
    assert [row["servers/live"] for row in rows] == [2] * 4
    assert [row["servers/repeats"] for row in rows] == [0] * 4
    assert all(row["servers/probe_gap"] < 1.001 and row["time/publish"] > 0 for row in rows)
    assert versions(tmp_path / "run") == [{0}, {1}, {2}, {3}]
    assert not list((tmp_path / "run" / "sync").glob("*"))
    assert "vLLM 0.32.0" in (tmp_path / "run" / "run.json").read_text()


def test_what_happens_to_a_server_is_in_the_record(tmp_path):
    with servers(2) as fakes:
        made = run(tmp_path / "run", fakes)
        fakes[0].fault("/v1/completions", "status", 3)
        made.train()
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert metrics(tmp_path / "run")[-1]["step"] == 4
    (left,) = [event for event in events if event["kind"] == "server_left_out"]
    assert "the engine is dead" in left["message"]
    assert metrics(tmp_path / "run")[0]["servers/live"] == 1


def test_an_adapter_that_never_arrives_ends_the_run_by_the_probe(tmp_path, monkeypatch):
    """The negative control: nothing of it would show in the reward."""
    monkeypatch.setattr(VersionWriter, "_write", _always_the_first(VersionWriter._write))
    with servers() as fakes:
        made = run(tmp_path / "run", fakes, server_timeout=1)
        with pytest.raises(RolloutError, match=r"as under version 0|from the learner's"):
            made.train()
    assert len(versions(tmp_path / "run")) <= 1


def _always_the_first(write):
    import shutil

    kept: list[Path] = []

    def stuck(self, policy, folder):
        if not kept:
            write(self, policy, folder)
            kept.append(folder.parent.parent.parent / "first")
            shutil.copytree(folder, kept[0])
        else:
            shutil.copytree(kept[0], folder, dirs_exist_ok=True)

    return stuck


@pytest.mark.parametrize("lag", [0, 1, 2])
@pytest.mark.parametrize("dynamic", [False, True])
def test_trap_46_a_lag_is_exact(tmp_path, lag, dynamic):
    settings = {"rollout_lag": lag, "dynamic_sampling": dynamic, "max_steps": 5}
    with servers() as fakes:
        run(tmp_path / "run", fakes, **settings).train()
    assert versions(tmp_path / "run") == [{max(0, step - 1 - lag)} for step in range(1, 6)]


def test_a_lag_draws_the_problems_of_no_lag_in_their_order(tmp_path):
    def draws(folder):
        files = sorted((folder / "completions").glob("step-*.jsonl"))
        return [[(g["draw"], g["problem"]) for g in map(json.loads, f.read_text().splitlines())] for f in files]

    with servers() as fakes:
        for lag in (0, 2):
            run(tmp_path / str(lag), fakes, rollout_lag=lag).train()
    assert draws(tmp_path / "0") == draws(tmp_path / "2")


@pytest.mark.parametrize("mode", ["lora", "weights"])
@pytest.mark.parametrize(("lag", "stop"), [(0, 2), (1, 1), (1, 2), (2, 2)])
def test_trap_42_45_an_interrupted_run_is_the_uninterrupted_one(tmp_path, mode, lag, stop):
    def model():
        return policy() if mode == "lora" else smallest_model()

    settings = {"rollout_lag": lag, "dynamic_sampling": True, "save_steps": 1}
    with servers() as fakes:
        run(tmp_path / "whole", fakes, model=model(), **settings).train()
        run(tmp_path / "cut", fakes, {"callbacks": [StopAfter(stop)]}, model(), **settings).train()
        run(tmp_path / "cut", fakes, model=model(), **settings).train(resume_from_checkpoint=True)
    assert versions(tmp_path / "cut") == versions(tmp_path / "whole")
    assert history(tmp_path / "cut") == history(tmp_path / "whole")


def test_an_error_ahead_is_the_error_of_its_step(tmp_path):
    def fails(completions: list[str], trainer_state: Any, **columns: Any) -> list[float]:
        calls.append(trainer_state.global_step)
        if len(calls) == 3:
            raise ValueError("a reward function of the user")
        return letters(completions)

    calls: list[int] = []
    with servers() as fakes:
        urls = [fake.url for fake in fakes]
        settings = {**COMMON, "servers": urls, "rollout_lag": 1, "save_steps": 1}
        made = trainer(tmp_path / "run", model=policy(), rewards=fails, **settings)
        with pytest.raises(GroupwiseError, match="a reward function of the user"):
            made.train()
        assert len(metrics(tmp_path / "run")) == 2
        made = trainer(tmp_path / "run", model=policy(), rewards=fails, **settings)
        made.train(resume_from_checkpoint=True)
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_trap_22_a_context_too_short_for_the_data_is_found_before_training(tmp_path):
    with servers(max_model_len=20) as fakes, pytest.raises(RolloutError, match=r"its context is 20.*\n.*vllm serve"):
        run(tmp_path / "run", fakes, max_completion_length=15)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_reward_rises_over_servers_and_not_without_learning(tmp_path):
    settings = {"max_steps": 25, "num_generations": 8, "learning_rate": 0.03}
    rise = {}
    with servers(2) as fakes:
        for name, rate in (("learns", 0.03), ("does not", 0.0)):
            run(tmp_path / name, fakes, **{**settings, "learning_rate": rate}).train()
            rewards = [row["reward"] for row in metrics(tmp_path / name)]
            rise[name] = sum(rewards[-5:]) / 5 - sum(rewards[:5]) / 5
    assert rise["learns"] > 0.5
    assert abs(rise["does not"]) < 0.4


def test_trap_28_another_version_of_the_servers_is_announced_when_a_run_goes_on(tmp_path, capsys):
    with servers() as fakes:
        run(tmp_path / "run", fakes, {"callbacks": [StopAfter(2)]}, save_steps=1).train()
        fakes[0].version = "0.33.0"
        run(tmp_path / "run", fakes, save_steps=1).train(resume_from_checkpoint=True)
    assert "servers was vLLM 0.32.0 and is now vLLM 0.33.0" in capsys.readouterr().out
