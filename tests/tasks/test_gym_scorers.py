"""Which scorers of reasoning-gym evaluate what they are given, and that these alone need a sandbox."""

from __future__ import annotations

import builtins
import importlib.metadata
import importlib.util
import json
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from groupwise.data.gym_generate import gym
from groupwise.errors import ConfigError, DataError
from groupwise.rewards.sandbox import backend_choice as choice
from groupwise.rewards.sandbox.backend_choice import BackendChoice, sandboxes_in_use, use
from groupwise.rewards.sandbox.detect import Found
from groupwise.rewards.sandbox.held import check_sandboxes
from groupwise.tasks import load_task, task_rewards
from groupwise.tasks.reasoning_gym import EVALUATE, READ_VERSION

from .gym_sources import used

pytestmark = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not here")

ROOT = Path(__file__).parents[2]

HARMLESS = {
    *("AttributeError", "Exception", "IndexError", "KeyError", "TypeError", "ValueError", "ZeroDivisionError"),
    *("abs", "all", "any", "chr", "complex", "enumerate", "isinstance", "len", "map", "max", "min", "next", "ord"),
    *("print", "range", "sorted", "str.strip", "sum", "zip"),
    *("json.decoder.JSONDecodeError", "json.dumps", "json.loads"),
    *("re.RegexFlag", "re.findall", "re.fullmatch", "re.match", "re.search", "re.split"),
    *("copy.deepcopy", "decimal.Decimal", "fractions.Fraction", "math.exp", "math.prod"),
    *("numpy.absolute", "numpy.allclose", "numpy.array", "numpy.float32", "numpy.isclose", "numpy.round"),
    "numpy.loadtxt",  # of lines, not of a file
    *("self.name", "self.value"),  # of an enumeration
    *("SokobanDataset._Game", "SokobanDataset._is_solved"),  # the package's own; imported when the data set is made
    "magiccube.cube.Cube",  # its moves are matched by a regular expression
    *("zss.compare.simple_distance", "zss.simple_tree.Node"),  # trees and the distance between them
}
"""All that scorers use and that evaluates nothing, whatever it is given."""

EVALUATORS = {
    "eval",
    "sympy.parsing.sympy_parser.parse_expr",
    *("sympy.core.function.diff", "sympy.core.symbol.Symbol", "sympy.simplify.simplify.simplify"),
}
"""`eval`, what calls it, and what scorers do with the formulas that come of it."""


def test_the_scorers_that_evaluate_are_those_of_the_list() -> None:
    """A scorer that uses anything new stands in neither set, and fails here until somebody has read it."""
    assert importlib.metadata.version("reasoning-gym") == READ_VERSION
    beyond = {
        task: used(scorer) - HARMLESS for task, (scorer, _) in gym().factory.DATASETS.items() if task != "composite"
    }
    evaluating = {task: names for task, names in beyond.items() if names}
    assert set(evaluating) == EVALUATE
    assert set.union(*evaluating.values()) == EVALUATORS
    for task, names in evaluating.items():
        assert names & {"eval", "sympy.parsing.sympy_parser.parse_expr"}, task


def test_the_extra_for_machines_without_a_compiler_lacks_pycosat_alone() -> None:
    asked_for = [each for each in importlib.metadata.requires("reasoning-gym") or () if "extra ==" not in each]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert sorted(extras["reasoning-parts"]) == sorted(each for each in asked_for if not each.startswith("pycosat"))
    assert extras["reasoning"] == [f"reasoning-gym=={READ_VERSION}"]


def helper(answer: str) -> Any:
    return eval(answer)


class ByItself:
    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        return float(eval(answer))


class ByAMethod:
    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        return self.read(answer)

    def read(self, answer: str) -> float:
        return float(sum(map(eval, answer.split())))


class ByAnotherName:
    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        read = getattr(builtins, "eval")  # noqa: B009
        return float(read(answer))


class ByAnImport:
    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        from sympy import sympify

        return float(sympify(answer))


class ByAProgram:
    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        def run(text: str) -> Any:
            return subprocess.run(["python3", "-c", text])

        return float(run(answer).returncode)


class ByAnAttribute:
    def __init__(self) -> None:
        self.reader = helper

    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        return float(self.reader(answer))


class ByAFunctionOfAnotherModule:
    def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
        return float(helper(answer))


@pytest.mark.parametrize(
    "scorer",
    [ByItself, ByAMethod, ByAnotherName, ByAnImport, ByAProgram, ByAnAttribute, ByAFunctionOfAnotherModule],
    ids=lambda scorer: scorer.__name__,
)
def test_a_scorer_that_evaluates_in_a_roundabout_way_is_found(scorer: type) -> None:
    assert used(scorer) - HARMLESS


@pytest.fixture
def no_sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(choice, "find_bubblewrap", lambda: Found(None, "There is no bubblewrap."))
    monkeypatch.setattr(choice, "find_docker", lambda: Found(None, "There is no Docker."))
    use(BackendChoice())
    yield
    use(BackendChoice())


def entry(task: str, answer: str) -> str:
    return json.dumps({"question": "?", "answer": answer, "metadata": {"source_dataset": task}})


@pytest.mark.parametrize("task", ["chain_sum", "gcd", "spell_backward", "word_ladder", "codeio", "rubiks_cube"])
def test_scorers_that_only_read_run_where_there_is_no_sandbox(task: str, no_sandbox: None) -> None:
    (function,) = task_rewards(f"reasoning-gym:{task}?place=whole")
    check_sandboxes([function])
    if task in ("chain_sum", "gcd"):
        assert function.call(completions=["12", "13"], entry=[entry(task, "12")] * 2) == [1.0, 0.0]
        assert sandboxes_in_use() == ["none"]


@pytest.mark.parametrize("task", sorted(EVALUATE))
def test_scorers_that_evaluate_are_refused_there(task: str, no_sandbox: None) -> None:
    functions = task_rewards(f"reasoning-gym:{task}")
    with pytest.raises(ConfigError, match=r'Reward "reasoning_gym": It runs or evaluates.*There is no bubblewrap'):
        check_sandboxes(functions)
    use(BackendChoice("none", run_untrusted_code_without_sandbox=True))
    check_sandboxes(functions)


@pytest.mark.parametrize("version", ["0.1.26", None])
def test_no_scorer_of_a_version_that_was_not_read_is_trusted(
    version: str | None, no_sandbox: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    with pytest.raises(ConfigError, match="There is no bubblewrap"):
        check_sandboxes(task_rewards("reasoning-gym:chain_sum"))


def test_without_the_package_it_is_the_package_that_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for start in (task_rewards, load_task):
        with pytest.raises(DataError, match=r"reasoning-gym:chain_sum needs the package reasoning-gym: pip install"):
            start("reasoning-gym:chain_sum")
