"""The solver that stands in for pycosat finds every solution, and only those."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest

from groupwise.data.sat import itersolve

Clauses = list[list[int]]

PYCOSAT = importlib.util.find_spec("pycosat")
needs_pycosat = pytest.mark.skipif(
    PYCOSAT is None or str(PYCOSAT.origin).endswith("sat.py"), reason="pycosat, which has to be compiled, is not here"
)
needs_gym = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not here")


def by_hand(clauses: Clauses) -> list[list[int]]:
    """Every assignment, tried."""
    variables = sorted({abs(literal) for clause in clauses for literal in clause})
    tried = (
        [sign * variable for sign, variable in zip(signs, variables, strict=True)]
        for signs in product((1, -1), repeat=len(variables))
    )
    return sorted(each for each in tried if all(set(clause) & set(each) for clause in clauses))


@pytest.mark.parametrize("num_clauses", [1, 3, 8, 15, 30])
def test_all_solutions_of_random_formulas_and_none_twice(num_clauses: int) -> None:
    random = Random(num_clauses)
    for _ in range(60):
        clauses = [
            [random.choice((1, -1)) * random.randint(1, 7) for _ in range(random.randint(1, 4))]
            for _ in range(num_clauses)
        ]
        assert sorted(itersolve(clauses)) == by_hand(clauses)


@pytest.mark.parametrize(
    ("clauses", "solutions"),
    [
        ([[1], [-1]], []),
        ([[1, 2], [-1, 2], [1, -2], [-1, -2]], []),
        ([[1, -1]], [[-1], [1]]),  # a variable that nothing decides
        ([[2], [-2, 5]], [[2, 5]]),
        ([], [[]]),
        ([[]], []),
    ],
)
def test_what_contradicts_itself_and_what_is_left_open(clauses: Clauses, solutions: list[Any]) -> None:
    assert sorted(itersolve(clauses)) == solutions


@needs_pycosat
def test_it_agrees_with_pycosat() -> None:
    import pycosat

    random = Random(0)
    for _ in range(50):
        clauses = [[random.choice((1, -1)) * random.randint(1, 9) for _ in range(3)] for _ in range(25)]
        assert sorted(itersolve(clauses)) == sorted(pycosat.itersolve(clauses))


PROGRAM = """
import json, sys
{hide}
from groupwise.data import gym_generate
made = gym_generate.rows({{"task": "zebra_puzzles", "params": {{}}, "size": 2, "eval_size": 1, "seed": 3}})
print(sys.modules["pycosat"].__file__, file=sys.stderr)
print(json.dumps(made))
"""


@functools.cache
def zebra_puzzles(*, hides_pycosat: bool) -> tuple[str, str]:
    """The file of the solver, and the problems."""
    hide = 'sys.modules["pycosat"] = None' if hides_pycosat else ""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(hide=hide)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        check=True,
    )
    return Path(done.stderr.splitlines()[-1]).name, done.stdout


@needs_gym
@pytest.mark.slow
def test_it_makes_puzzles_where_pycosat_is_missing() -> None:
    solver, problems = zebra_puzzles(hides_pycosat=True)
    assert solver == "sat.py"
    assert len(json.loads(problems)["train"]) == 2


@needs_gym
@needs_pycosat
@pytest.mark.slow
def test_the_puzzles_are_the_same_with_either() -> None:
    solver, problems = zebra_puzzles(hides_pycosat=False)
    assert solver != "sat.py"
    assert problems == zebra_puzzles(hides_pycosat=True)[1]
