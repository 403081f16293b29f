"""reasoning-gym: every task generates, its own answers get full marks along our path, and nonsense does not."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from groupwise.data import load_problems
from groupwise.data.gym_generate import decode, encode
from groupwise.errors import DataError
from groupwise.rewards.sandbox import Outcome
from groupwise.tasks import load_task

pytestmark = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not here")

NUM_TASKS = 105
NO_ANSWER_KNOWN = {"boxnet", "rush_hour"}
"""Neither the problem nor its record holds an answer."""
NO_WRONG_ANSWER = {"game_of_life_halting"}
"""Its scorer takes any text but "True" for "False"."""
GCD = "reasoning-gym:gcd?max_value=30&place=last&size=12&eval_size=6"


def oracles(*tasks: str) -> dict[str, Any]:
    program = Path(__file__).with_name("gym_oracles.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program), *tasks],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, Any]) -> None:
    for task, scored in found.items():
        assert scored["rows"] == 3, task
        assert scored["gold"] == ([] if task in NO_ANSWER_KNOWN else [1.0] * 3), task
        assert task in NO_WRONG_ANSWER or all(isinstance(value, str) or value < 0.5 for value in scored["nonsense"]), (
            task
        )


@pytest.mark.slow
def test_a_few_tasks_of_every_kind() -> None:
    check(oracles("arc_1d", "boxnet", "chain_sum", "graph_color", "spell_backward"))


@pytest.mark.slow
def test_every_task() -> None:
    found = oracles()
    assert len(found) == NUM_TASKS
    check(found)


@pytest.mark.parametrize(
    "value", [(1, [2, (3,)]), {1: "a", (2, 3): [4]}, {"a": {"b": (None, 1.5, True)}}, [], {"__x__": 1}]
)
def test_records_come_back_as_they_were(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert repr(back) == repr(value)


@pytest.mark.slow
def test_problems_are_the_same_under_every_hash_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ransom_note` picks from sets of letters, whose order a new process would change."""
    from groupwise.data import gym as reasoning_gym

    texts = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        reasoning_gym._generate.cache_clear()
        made = reasoning_gym.generate("ransom_note", {}, size=3, eval_size=1, seed=0)
        texts.append([row["question"] for row in made["train"]])
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_splits_are_disjoint_whatever_the_seed_and_the_size() -> None:
    train, held_out = set(), set()
    for seed in (0, 1):
        task = load_task(f"{GCD}&seed={seed}")
        assert task.eval_problems is not None
        train |= {str(p.prompt) for p in task.problems}
        held_out |= {str(p.prompt) for p in task.eval_problems}
    assert len(train) > 12
    assert len(held_out) > 6
    assert not train & held_out


def test_rewards_come_from_the_scorer_in_its_worker() -> None:
    task = load_task(GCD)
    (function,) = task.rewards
    problem = task.problems[0]
    gold, logged, why = int(problem.columns["answer"]), {}, []
    texts = [f"It is {gold}.", f"{gold + 1}", "no idea"]
    found = function.call(
        completions=texts, entry=[problem.columns["entry"]] * 3, log_metric=logged.__setitem__, log_why=why.extend
    )
    assert found == [1.0, 0.0, 0.0]
    assert logged == {"reasoning_gym/unscorable": 0}
    assert why == [f"'{gold}': 1.0", f"'{gold + 1}': 0.0", "no answer found"]


class Fixed:
    """A scorer with answers of its own."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = outcomes

    def __call__(self, rows: Any) -> list[Outcome]:
        assert len(rows) == len(self.outcomes)
        return list(self.outcomes)


@pytest.mark.parametrize(("strict", "expected"), [(False, [0.25, 1.0, 0.0]), (True, [0.0, 1.0, 0.0])])
def test_partial_credit_and_answers_that_break_the_scorer(
    strict: bool, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    (function,) = load_task(f"{GCD}&strict={str(strict).lower()}").rewards
    outcomes = [Outcome(0.25, None, 0.0), Outcome(1.0, None, 0.0), Outcome(None, "timed out after 10 s", 10.0)]
    monkeypatch.setattr(function.call, "_scorer", Fixed(*outcomes))
    logged: dict[str, float] = {}
    given = function.call(completions=["1", "2", "3"], entry=["{}"] * 3, log_metric=logged.__setitem__)
    assert given == expected
    assert logged == {"reasoning_gym/unscorable": 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reasoning-gym:gdc", 'no task "gdc".*Did you mean "gcd"'),
        ("reasoning-gym:gcd?max_valu=3", 'no parameter "max_valu".*Did you mean "max_value"'),
        ("reasoning-gym:gcd?min_numbers=1", "refuses its parameters: min_numbers must be at least 2"),
    ],
)
def test_mistakes_are_named(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_task(name)


def test_the_gym_is_a_data_source_for_rewards_of_ones_own() -> None:
    problems = load_problems("reasoning-gym:gcd?max_value=30&size=12&eval_size=6", split="eval")
    assert len(problems) == 6
    assert problems.column_names == ("answer", "entry")
    assert problems[0].prompt[0]["role"] == "user"
    with pytest.raises(DataError, match="has no split 'test'"):
        load_problems("reasoning-gym:gcd", split="test")
