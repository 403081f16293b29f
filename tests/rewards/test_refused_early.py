"""What a machine without a sandbox cannot run is refused before problems are made and a model is loaded."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from api_helpers import trainer, yaml_text

import groupwise.data.gym
import groupwise.lifecycle.build
import groupwise.lifecycle.inputs
from groupwise import GRPOTrainer
from groupwise.check.run_checks import check
from groupwise.cli import main
from groupwise.config import Recipe, load_recipe
from groupwise.errors import ConfigError
from groupwise.lifecycle.inputs import read_inputs
from groupwise.offline import score_file
from groupwise.rewards import resolve_rewards
from groupwise.rewards.sandbox import Sandboxed
from groupwise.rewards.sandbox import backend_choice as choice
from groupwise.rewards.sandbox.backend_choice import BackendChoice, use
from groupwise.rewards.sandbox.detect import Found
from groupwise.rewards.sandbox.held import check_sandboxes

SCORERS = "tests.rewards.scorers"

OWN = f'''
from groupwise.rewards.sandbox import Sandboxed

scorer = Sandboxed("{SCORERS}:double")
reader = Sandboxed("{SCORERS}:double", needs_sandbox=False)


def evaluates(completions, **columns):
    return [scorer([{{"x": len(text)}}])[0].value for text in completions]


def through_a_helper(completions, **columns):
    return evaluates(completions)


def reads(completions, **columns):
    return [outcome.value for outcome in reader([{{"x": len(text)}} for text in completions])]


def neither(completions, **columns):
    return [float(len(text)) for text in completions]
'''


@pytest.fixture(autouse=True)
def no_sandbox(monkeypatch):
    """Neither bubblewrap nor Docker works, and whoever makes problems or loads a model has come too far."""
    monkeypatch.setattr(choice, "find_bubblewrap", lambda: Found(None, "There is no bubblewrap."))
    monkeypatch.setattr(choice, "find_docker", lambda: Found(None, "There is no Docker."))
    for module, name in (
        (groupwise.data.gym, "_generate"),
        (groupwise.lifecycle.inputs, "load_problems"),
        (groupwise.lifecycle.inputs, "load_task"),
        (groupwise.lifecycle.build, "load_model"),
        (groupwise.trainer, "load_problems"),
    ):
        monkeypatch.setattr(module, name, functools.partial(_too_far, name))
    yield
    use(BackendChoice())


def _too_far(name: str, *arguments: Any, **keywords: Any) -> Any:
    raise AssertionError(f"{name} was called")


CODE = {"data": "rows.jsonl", "rewards": ["code"]}
REFUSED: dict[str, dict[str, Any]] = {
    "code": CODE,
    "code, sandbox none": {**CODE, "sandbox": "none"},
    "code, sandbox docker": {**CODE, "sandbox": "docker", "run_untrusted_code_without_sandbox": True},
    "math, sandbox bubblewrap": {"data": "rows.jsonl", "rewards": ["math"], "sandbox": "bubblewrap"},
    "task math, sandbox docker": {"task": "math", "sandbox": "docker"},
    "countdown of the gym": {"task": "reasoning-gym:countdown"},
    "n_queens of the gym": {"task": {"name": "reasoning-gym:n_queens", "n": 4}},
    "chain_sum, sandbox bubblewrap": {"task": "reasoning-gym:chain_sum", "sandbox": "bubblewrap"},
    "a second reward": {"task": "arithmetic", "rewards": [{"name": "length", "target": 4}, "code"]},
    "own": {"data": "rows.jsonl", "rewards": [{"function": "own.py:evaluates"}]},
    "own, through a helper": {"data": "rows.jsonl", "rewards": [{"function": "own.py:through_a_helper"}]},
    "own, isolated": {
        "data": "rows.jsonl", "rewards": [{"function": "own.py:evaluates", "isolated": True}], "sandbox": "none",
    },
    "own that reads, sandbox docker": {
        "data": "rows.jsonl", "rewards": [{"function": "own.py:reads"}], "sandbox": "docker",
    },
}  # fmt: skip


def recipe_file(tmp_path: Path, changes: dict[str, Any]) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "say one", "answer": "1", "tests": "assert f() == 1"}\n')
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml_text({"model": "nobody/nothing", "output_dir": str(tmp_path / "run"), **changes}))
    return file


def check_it(recipe: Any, folder: Path) -> Any:
    return check(recipe, read_inputs(recipe, folder))


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
def test_training_and_check_refuse_it_in_one_sentence(changes, tmp_path):
    recipe = load_recipe(recipe_file(tmp_path, changes))
    said = []
    for start in (
        lambda: GRPOTrainer.from_recipe(recipe, folder=tmp_path),
        lambda: check_it(recipe, tmp_path),
    ):
        with pytest.raises(ConfigError) as refusal:
            start()
        said.append(str(refusal.value))
    assert said[0] == said[1]
    assert said[0].startswith('Reward "')
    if changes.get("sandbox", "auto") == "auto":
        assert "There is no bubblewrap. There is no Docker." in said[0]
    wanted = "run_untrusted_code_without_sandbox: true" if changes.get("sandbox") in (None, "none") else "does not work"
    assert wanted in said[0]


def test_the_commands_end_with_it(tmp_path, capsys):
    file = recipe_file(tmp_path, REFUSED["countdown of the gym"])
    said = []
    for command in ("train", "check"):
        with pytest.raises(SystemExit) as ended:
            main([command, str(file)])
        assert ended.value.code == 2
        said.append(next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")))
    assert said[0] == said[1]
    assert 'Reward "reasoning_gym"' in said[0]


def test_the_trainer_and_the_command_reward_refuse_it_first(tmp_path):
    (code,) = resolve_rewards(["code"])
    with pytest.raises(ConfigError, match='Reward "code"'):
        trainer(tmp_path / "run", rewards=code)
    with pytest.raises(ConfigError, match='Reward "code"'):
        score_file(Recipe(data="rows.jsonl", rewards=["code"]), tmp_path / "no-such-file.jsonl")


ALLOWED: dict[str, dict[str, Any]] = {
    "math": {"data": "rows.jsonl", "rewards": ["math"]},
    "code at one's own risk": {**CODE, "run_untrusted_code_without_sandbox": True},
    "chain_sum of the gym": {"task": "reasoning-gym:chain_sum"},
    "chain_sum of the gym, sandbox none": {"task": "reasoning-gym:chain_sum", "sandbox": "none"},
    "countdown of our own": {"task": "countdown"},
    "own that reads": {"data": "rows.jsonl", "rewards": [{"function": "own.py:reads"}]},
    "own that reads, isolated": {"data": "rows.jsonl", "rewards": [{"function": "own.py:reads", "isolated": True}]},
    "own with a scorer that it does not use": {"data": "rows.jsonl", "rewards": [{"function": "own.py:neither"}]},
    "no worker, sandbox docker": {"data": "rows.jsonl", "rewards": ["exact_match"], "sandbox": "docker"},
}  # fmt: skip


@pytest.mark.parametrize("changes", ALLOWED.values(), ids=ALLOWED)
def test_what_needs_none_gets_as_far_as_its_problems(changes, tmp_path):
    recipe = load_recipe(recipe_file(tmp_path, changes))
    with pytest.raises(AssertionError, match=r"load_(problems|task) was called"):
        read_inputs(recipe, tmp_path)


def held_by_a_closure():
    scorer = Sandboxed(f"{SCORERS}:double")

    def reward(completions):
        return [outcome.value for outcome in scorer([{"x": 1} for _ in completions])]

    return reward


class Holder:
    """A reward that is an object, or one of its methods."""

    def __init__(self) -> None:
        self.scorer = Sandboxed(f"{SCORERS}:double")

    def __call__(self, completions):
        return [outcome.value for outcome in self.scorer([{"x": 1} for _ in completions])]

    def method(self, completions):
        return self(completions)


class OfItsClass:
    """Every object of the class shares the workers, and calls them in a method of another name."""

    scorer = Sandboxed(f"{SCORERS}:double")

    def score(self, text):
        return self.scorer([{"x": len(text)}])[0].value

    def __call__(self, completions):
        return [self.score(text) for text in completions]


def in_a_comprehension(completions):
    return [_SCORER([{"x": len(text)}])[0].value for text in completions]


_SCORER = Sandboxed(f"{SCORERS}:double")


def by_default(completions, scorer=_SCORER):
    return given(scorer, completions)


async def later(completions):
    return in_a_comprehension(completions)


def given(scorer, completions):
    return [outcome.value for outcome in scorer([{"x": 1} for _ in completions])]


@pytest.mark.parametrize(
    "make",
    [
        held_by_a_closure,
        Holder,
        OfItsClass,
        lambda: Holder().method,
        lambda: in_a_comprehension,
        lambda: later,
        lambda: by_default,
        lambda: functools.partial(given, Sandboxed(f"{SCORERS}:double")),
        lambda: functools.partial(held_by_a_closure()),
        lambda: functools.wraps(given)(held_by_a_closure()),
    ],
    ids=[
        "closure",
        "object",
        "class",
        "method",
        "comprehension",
        "async",
        "default",
        "partial",
        "partial of a closure",
        "wrapped",
    ],
)
def test_the_workers_of_a_callable_are_found_wherever_it_holds_them(make):
    functions = resolve_rewards([make()])
    with pytest.raises(ConfigError, match="There is no bubblewrap"):
        check_sandboxes(functions)
    use(BackendChoice("none", run_untrusted_code_without_sandbox=True))
    check_sandboxes(functions)
