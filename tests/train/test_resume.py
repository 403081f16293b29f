"""Interrupted and resumed is uninterrupted: the same weights, completions and metrics, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import ROWS, trainer
from histories import StopAfter, completions, evaluations, history
from tiny import tiny_model, with_lora
from transformers import EarlyStoppingCallback

from groupwise.checkpoint.state_tree import join, split
from groupwise.errors import ConfigError, DataError, RunError
from groupwise.runs import manifest
from groupwise.runs.folder import RunFolder
from groupwise.runs.reader import RunReader

Damage = Callable[[bytes], bytes]

LAST = 4
COMMON: dict[str, Any] = {
    "max_steps": LAST,
    "num_generations": 3,
    "max_completion_length": 5,
    "learning_rate": 0.02,
    "warmup_steps": 1,
    "weight_decay": 0.1,
}
RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "full": (tiny_model, {"beta": 0.0}),
    "full, reference": (tiny_model, {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 2}),
    "tied, mu 2": (lambda: tiny_model("llama-tied"), {"beta": 0.0, "num_iterations": 2, "num_minibatches": 2}),
    "fresh lora": (lambda: with_lora(tiny_model(), is_learnt=False), {"beta": 0.1}),
    "learnt lora": (lambda: with_lora(tiny_model()), {"beta": 0.1, "ref_model_reset_steps": 2}),
    "bfloat16": (lambda: with_lora(tiny_model().bfloat16()), {"beta": 0.0, "dtype": "bfloat16"}),
    "slow path": (lambda: tiny_model("lfm2"), {"beta": 0.1}),
    "ema": (tiny_model, {"objective": {"preset": "grpo", "baseline": "ema", "scale": "none", "beta": 0.0}}),
    "dynamic": (tiny_model, {"beta": 0.0, "dynamic_sampling": True}),
    "adaptive": (
        tiny_model,
        {"beta": 0.1, "kl_target": 0.01, "kl_horizon": 50, "use_adaptive_entropy": True, "entropy_target": 9.0},
    ),
    "measured kl, greedy": (tiny_model, {"objective": "remax", "beta": 0.0, "kl_metric_steps": 2}),
    "pools": (
        tiny_model,
        {"beta": 0.0, "dynamic_sampling": True, "curriculum": "pools", "curriculum_patience": 1},
    ),
    "levels": (
        tiny_model,
        {
            "beta": 0.0,
            "curriculum": "levels",
            "curriculum_window": 2,
            "curriculum_up_at": 0.4,
            "data": [{**row, "level": number // 2} for number, row in enumerate(ROWS)],
        },
    ),
    "adafactor": (tiny_model, {"beta": 0.0, "optim": "adafactor"}),
}


def letters(completions: list[str], **columns: Any) -> list[float]:
    """Equal values are common, so that some groups have no signal."""
    return [float(completion.count("a") + completion.count("e")) for completion in completions]


def run(name: str, folder: Path, *, stop: int | None = None, resume: bool | Path = False, **changes: Any) -> Any:
    make, settings = RUNS[name]
    callbacks = [StopAfter(stop)] if stop else []
    grpo = trainer(
        folder, model=make(), rewards=letters, rest={"callbacks": callbacks}, **{**COMMON, **settings, **changes}
    )
    grpo.train(resume_from_checkpoint=resume or None)
    return grpo


def messages(folder: Path, kind: str) -> list[str]:
    return [event["message"] for event in RunReader(folder).events() if event["kind"] == kind]


def assert_same(parts: Path, whole: Path) -> None:
    assert history(parts) == history(whole)
    assert completions(parts) == completions(whole)


@pytest.mark.parametrize("name", [name for name in RUNS if name != "full"])
def test_a_resumed_run_is_the_uninterrupted_one(name, tmp_path):
    whole = run(name, tmp_path / "whole")
    assert run(name, tmp_path / "parts", stop=2).state.global_step == 2
    parts = run(name, tmp_path / "parts", resume=True)
    assert parts.state.global_step == LAST
    assert_same(tmp_path / "parts", tmp_path / "whole")
    assert [record["step"] for record in history(tmp_path / "parts")] == list(range(1, LAST + 1))
    mine, theirs = parts.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(mine[n], theirs[n]) for n in theirs)
    start = RUNS[name][0]().state_dict()
    assert not all(torch.equal(mine[n], start[n].to(mine[n].dtype)) for n in start), "something was learnt"


def test_what_came_after_the_checkpoint_is_forgotten(tmp_path, capsys):
    run("full", tmp_path / "whole")
    run("full", tmp_path / "parts", stop=2)
    folder = RunFolder(tmp_path / "parts")
    run("full", tmp_path / "parts", resume=True)  # to the end; now once more from step 2
    again = run("full", tmp_path / "parts", resume=folder.checkpoint_of(2), stop=3)
    assert "Recorded after the checkpoint of step 2, and done again: steps 3 to 4." in capsys.readouterr().out
    assert folder.checkpoint_steps() == [2, 3], "a later one of the other history is nothing to go on from"
    assert (folder.path / "set-aside-checkpoint-4").is_dir()
    again = run("full", tmp_path / "parts", resume=True)
    assert_same(tmp_path / "parts", tmp_path / "whole")
    assert again.state.global_step == LAST


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path):
    run("full", tmp_path / "whole")
    run("full", tmp_path / "parts", stop=2)
    folder = RunFolder(tmp_path / "parts")
    folder.checkpoint_of(2).rename(folder.path / ".checkpoint-2.old")  # killed while deleting it
    run("full", tmp_path / "parts", resume=True)
    assert_same(tmp_path / "parts", tmp_path / "whole")
    assert [path.name for path in folder.path.glob("*checkpoint-*")] == ["checkpoint-4"]


@pytest.mark.parametrize(
    "file", ["model.safetensors", "state/optimizer.safetensors", "state/state.json", "manifest.json"]
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: (
            content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
        ),
        lambda content: b"",
    ],
    ids=["cut short", "flipped bit", "empty"],
)
def test_a_damaged_checkpoint_is_found_out(tmp_path, file, damage: Damage):
    (tmp_path / "state").mkdir()
    for name in ("model.safetensors", "state/optimizer.safetensors", "state/state.json"):
        (tmp_path / name).write_bytes(name.encode() * 50)
    manifest.write(tmp_path)
    manifest.check(tmp_path)
    (tmp_path / file).write_bytes(damage((tmp_path / file).read_bytes()))
    with pytest.raises(RunError, match=r"is damaged|has checkpoint format"):
        manifest.check(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: (p / "state/state.json").unlink(),
        lambda p: (p / "state/more").write_bytes(b"x"),
        lambda p: (p / "more.safetensors").write_bytes(b"x"),
    ],
)
def test_a_missing_or_foreign_file_is_damage(tmp_path, change):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/state.json").write_bytes(b"{}")
    manifest.write(tmp_path)
    (tmp_path / "README.md").write_text("A card that the user has put beside the model decides nothing.")
    manifest.check(tmp_path)
    change(tmp_path)
    with pytest.raises(RunError, match=r"is damaged: (state/state\.json is missing|.*more.* is not listed)"):
        manifest.check(tmp_path)


def test_a_damaged_checkpoint_makes_way_for_the_one_before(tmp_path):
    run("full", tmp_path / "whole", save_steps=1)
    run("full", tmp_path / "parts", save_steps=1, stop=3)
    folder = RunFolder(tmp_path / "parts")
    weights = folder.checkpoint_of(3) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(RunError, match=r"checkpoint-3\" is damaged: model.safetensors has .* bytes instead of"):
        run("full", tmp_path / "parts", resume=folder.checkpoint_of(3))
    run("full", tmp_path / "parts", resume=True, save_steps=1)
    assert_same(tmp_path / "parts", tmp_path / "whole")
    (said,) = messages(tmp_path / "parts", "checkpoint_damaged")
    assert said.endswith("The checkpoint of step 2 is used instead.")


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(tmp_path):
    run("full", tmp_path, stop=1)
    (RunFolder(tmp_path).checkpoint_of(1) / "state/state.json").write_bytes(b"{}")
    with pytest.raises(RunError, match="There is no other checkpoint to go on from"):
        run("full", tmp_path, resume=True)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run("fresh lora", tmp_path, stop=1)
    other = trainer(tmp_path, model=with_lora(tiny_model(), rank=5), rewards=letters, **COMMON)
    with pytest.raises(RunError, match="belongs to another model or adapter"):
        other.train(resume_from_checkpoint=True, allow_changes=True)


def test_a_checkpoint_of_another_base_is_refused(tmp_path):
    run("fresh lora", tmp_path, stop=1)
    other = trainer(tmp_path, model=with_lora(tiny_model(seed=1), is_learnt=False), rewards=letters, **COMMON, beta=0.1)
    with pytest.raises(ConfigError, match="the frozen weights was"):
        other.train(resume_from_checkpoint=True)


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    run("full", tmp_path, stop=1)
    other = trainer(tmp_path, rewards=letters, data=[{"prompt": "ab"}] * 9, **{**COMMON, "beta": 0.0})
    with pytest.raises(ConfigError, match="the data was"):
        other.train(resume_from_checkpoint=True)
    with pytest.raises(DataError, match="num_rows was 6 and is now 9"):
        other.train(resume_from_checkpoint=True, allow_changes=True)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"has no manifest\.json"):
        trainer(tmp_path / "run", rewards=letters, **COMMON).train(resume_from_checkpoint=tmp_path / "empty")


def test_a_changed_recipe_is_told_key_by_key_and_refused(tmp_path):
    run("full", tmp_path, stop=1)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "events.jsonl"}
    with pytest.raises(
        ConfigError, match=r"learning_rate was 0\.02 and is now 0\.5; num_generations was 3 and is now 2"
    ):
        run("full", tmp_path, resume=True, learning_rate=0.5, num_generations=2, logging_steps=2)
    assert {p: p.read_bytes() for p in before} == before


def test_a_change_that_is_allowed_acts(tmp_path):
    run("full", tmp_path, stop=1, lr_scheduler_type="constant", warmup_steps=0)
    make, settings = RUNS["full"]
    changed = {**COMMON, **settings, "learning_rate": 0.5, "weight_decay": 0.3, "warmup_steps": 0}
    grpo = trainer(tmp_path, model=make(), rewards=letters, lr_scheduler_type="constant", **changed)
    grpo.train(resume_from_checkpoint=True, allow_changes=True)
    assert [record["learning_rate"] for record in history(tmp_path)] == [0.02, 0.5, 0.5, 0.5]
    assert grpo._callbacks.context["optimizer"].param_groups[0]["weight_decay"] == 0.3
    assert messages(tmp_path, "recipe_changed") == [
        "learning_rate was 0.02 and is now 0.5.",
        "weight_decay was 0.1 and is now 0.3.",
    ]


def test_what_no_step_depends_on_may_change(tmp_path):
    run("full", tmp_path / "whole")
    run("full", tmp_path / "parts", stop=1, save_total_limit=3)
    run("full", tmp_path / "parts", resume=True, save_steps=1, save_total_limit=1, logging_steps=2, run_name="other")
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_a_longer_run_is_exact_where_the_learning_rate_does_not_depend_on_its_length(tmp_path):
    steady = {"lr_scheduler_type": "constant_with_warmup"}
    run("full", tmp_path / "whole", **steady)
    run("full", tmp_path / "parts", **steady, max_steps=2)
    run("full", tmp_path / "parts", **steady, resume=True)
    assert_same(tmp_path / "parts", tmp_path / "whole")
    assert messages(tmp_path / "parts", "recipe_changed") == [
        "The run had 2 steps and now has 4. Its learning rates do not depend on that: it is the run of 4 steps, bit "
        "for bit."
    ]


def test_a_longer_run_follows_the_longer_schedule_and_says_so(tmp_path):
    run("full", tmp_path / "whole")
    run("full", tmp_path / "parts", max_steps=2)
    run("full", tmp_path / "parts", resume=True)
    rates = [[record["learning_rate"] for record in history(tmp_path / name)] for name in ("parts", "whole")]
    assert rates[0][2:] == rates[1][2:]
    (said,) = messages(tmp_path / "parts", "recipe_changed")
    assert "From step 3 on the learning rate follows the linear schedule of 4 steps" in said


def test_a_run_beyond_its_new_end_says_that_nothing_is_left(tmp_path):
    run("full", tmp_path)
    run("full", tmp_path, resume=True, max_steps=2)
    (said,) = messages(tmp_path, "recipe_changed")
    assert said == "The run had 4 steps and now has 2, and 4 are done: there is nothing left to do."


def test_the_best_checkpoint_stays_and_becomes_the_model(tmp_path):
    """Negated rewards get worse as letters are learnt, so an early evaluation is the best one."""
    evaluated = {"save_steps": 1, "save_total_limit": 1, "eval_steps": 1, "num_generations_eval": 2}
    chosen = {"load_best_model_at_end": True, "metric_for_best_model": "reward", "greater_is_better": False}

    def evaluated_run(folder: Path, stop: int | None = None, resume: bool = False) -> Any:
        callbacks = [EarlyStoppingCallback(3), *([StopAfter(stop)] if stop else [])]
        rest = {"callbacks": callbacks, "eval_dataset": ROWS[:2]}
        settings = {**COMMON, **evaluated, **chosen, "beta": 0.0}
        grpo = trainer(folder, model=tiny_model(), rewards=letters, rest=rest, **settings)
        grpo.train(resume_from_checkpoint=resume)
        return grpo

    whole = evaluated_run(tmp_path / "whole")
    values = [record["eval_reward"] for record in history(tmp_path / "whole")]
    best = values.index(min(values)) + 1
    assert best < LAST, "else nothing is shown"
    assert RunFolder(tmp_path / "whole").checkpoint_steps() == [best, LAST]
    assert (whole.state.best_global_step, whole.state.best_metric) == (best, min(values))
    evaluated_run(tmp_path / "parts", stop=2)
    parts = evaluated_run(tmp_path / "parts", resume=True)
    kept = evaluations(tmp_path / "parts")
    assert kept == evaluations(tmp_path / "whole")
    assert kept
    assert_same(tmp_path / "parts", tmp_path / "whole")
    stopped = evaluated_run(tmp_path / "best", stop=best)
    for name, tensor in stopped.model.state_dict().items():
        assert torch.equal(whole.model.state_dict()[name], tensor)
        assert torch.equal(parts.model.state_dict()[name], tensor)
    counters = [t._callbacks._callbacks[0].early_stopping_patience_counter for t in (whole, parts)]
    assert counters[0] == counters[1] == LAST - best


def test_a_metric_that_no_evaluation_measures_is_refused(tmp_path):
    grpo = trainer(tmp_path, rewards=letters, metric_for_best_model="rewards/lettres/mean")
    with pytest.raises(ConfigError, match='Did you mean "eval_rewards/letters/mean"'):
        grpo.train()


def test_checkpoints_are_kept_up_to_the_limit_and_leave_no_scratch(tmp_path):
    trainer(tmp_path, rewards=letters, **{**COMMON, "save_steps": 1, "save_total_limit": 2}).train()
    assert RunFolder(tmp_path).checkpoint_steps() == [LAST - 1, LAST]
    assert sorted(p.name for p in tmp_path.glob("*checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert not RunFolder(tmp_path).reserve.exists()


class Unsaveable(torch.optim.SGD):
    """Its state holds a function."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "hook": print}


def test_an_optimizer_that_cannot_be_saved_is_refused_at_the_start(tmp_path):
    model = tiny_model()
    rest = {"optimizers": (Unsaveable(model.parameters(), lr=0.1), None)}
    with pytest.raises(ConfigError, match=r"Unsaveable cannot be saved in a checkpoint: hook is a builtins\.builtin_"):
        trainer(tmp_path, model=model, rewards=letters, rest=rest).train()
    assert not (tmp_path / "metrics.jsonl").exists()


class Late(torch.optim.SGD):
    """Its state holds a set after the first step."""

    def step(self, closure: Any = None) -> Any:
        self.state[self.param_groups[0]["params"][0]]["seen"] = {1}
        return super().step(closure)


def test_an_optimizer_whose_state_turns_out_unsaveable_is_refused_after_its_first_step(tmp_path):
    model = tiny_model()
    rest = {"optimizers": (Late(model.parameters(), lr=0.1), None)}
    with pytest.raises(ConfigError, match=r"Late cannot be saved in a checkpoint: state\.#0\.seen is a builtins\.set"):
        trainer(tmp_path, model=model, rewards=letters, rest=rest).train()


def test_another_setting_of_an_own_optimizer_is_a_change(tmp_path):
    def own(momentum: float) -> Any:
        model = tiny_model()
        rest = {"optimizers": (torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum), None)}
        return trainer(tmp_path, model=model, rewards=letters, rest={**rest, "callbacks": [StopAfter(1)]})

    own(0.5).train()
    with pytest.raises(ConfigError, match="the optimizer was"):
        own(0.9).train(resume_from_checkpoint=True)
    own(0.5).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD, lambda p: torch.optim.SGD(p, momentum=0.9)])
def test_optimizer_state_survives_tensors_and_json(make):
    parameters = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4))]
    optimizer = make(parameters)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    found = join(json.loads(json.dumps(split(state, tensors, ""))), tensors)
    assert found["param_groups"] == state["param_groups"]
    assert found["state"].keys() == state["state"].keys()
    for index, values in state["state"].items():
        assert found["state"][index].keys() == values.keys()
        for key, value in values.items():
            assert torch.equal(found["state"][index][key], value) if torch.is_tensor(value) else value is None


def test_nested_state_survives_with_its_kinds():
    state = {"a": [1, (2.5, None), {"b": torch.arange(3), 7: "x"}], "nothing": (), "nan": float("inf")}
    tensors: dict[str, torch.Tensor] = {}
    found = join(json.loads(json.dumps(split(state, tensors, ""))), tensors)
    assert torch.equal(found["a"][2].pop("b"), state["a"][2].pop("b"))
    assert found == state
