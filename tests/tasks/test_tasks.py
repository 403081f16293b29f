"""Every task: the gold answer gets the full reward, a wrong one does not, what cannot be read is 0 on purpose."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupwise.config import Recipe
from groupwise.config.names import GYM, TASKS
from groupwise.errors import ConfigError, DataError
from groupwise.tasks import NAMES, Task, load_task, parameters
from groupwise.tasks.arithmetic import Arithmetic, result
from groupwise.tasks.asking import SYSTEM_PROMPTS, Asking
from groupwise.tasks.countdown import Countdown, evaluate
from groupwise.tasks.generated import split_of


def reward(task: Task, row: int, *completions: str) -> list[float | None]:
    """The task's own reward of completions of one problem."""
    (function,) = task.rewards
    columns = {name: [task.problems[row].columns[name]] * len(completions) for name in task.problems.column_names}
    accepted = {name: values for name, values in columns.items() if function.accepts(name)}
    answer: list[float | None] = function.call(completions=list(completions), **accepted)
    return answer


def prompts(task: Task) -> tuple[set[str], set[str]]:
    assert task.eval_problems is not None
    return tuple({json.dumps(p.prompt) for p in part} for part in (task.problems, task.eval_problems))  # type: ignore[return-value]


def test_the_names_of_the_configuration_are_those_of_the_tasks() -> None:
    assert tuple(TASKS) == NAMES
    for name in NAMES:
        assert set(TASKS[name]) == set(parameters(name)), name


GENERATED = ("arithmetic?operators=+-*&max_level=3&size=40&eval_size=9", "countdown?max_level=3&size=40&eval_size=9")


@pytest.mark.parametrize("name", GENERATED)
def test_problems_follow_from_the_seed_and_splits_are_disjoint_for_all_seeds(name: str) -> None:
    task, again, other = load_task(name), load_task(name), load_task(f"{name}&seed=1")
    train, held_out = prompts(task)
    assert prompts(again) == (train, held_out)
    assert prompts(other)[0] != train
    assert not (train | prompts(other)[0]) & (held_out | prompts(other)[1])
    levels = [p.columns["level"] for p in task.problems]
    assert levels == sorted(levels)
    assert set(levels) == {1, 2, 3}
    assert len(train) == len(task.problems) == 120 or name.startswith("arithmetic")


def test_half_of_a_commutative_pair_is_not_held_out() -> None:
    make = Arithmetic(operators="*").make
    keys = {q.text: q.key for q in (make(Random(number), 1) for number in range(500))}
    assert keys["What is 7 * 8?"] == keys["What is 8 * 7?"]
    minus = {q.text: q.key for q in (Arithmetic(operators="-").make(Random(n), 1) for n in range(500))}
    assert minus["What is 7 - 8?"] != minus["What is 8 - 7?"]


def test_a_level_that_is_exhausted_gives_what_there_is() -> None:
    task = load_task("arithmetic?operators=*&size=1000")
    train, held_out = prompts(task)
    assert len(train) + len(held_out) == 81


@given(st.lists(st.integers(0, 99), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_results_are_those_of_python(numbers: list[int], random: Any) -> None:
    joins = [random.choice("+-*") for _ in numbers[1:]]
    text = "".join(f"{number}{join}" for number, join in zip(numbers, [*joins, ""], strict=True))
    assert result(numbers, joins) == eval(text)


def test_arithmetic_reads_the_last_number() -> None:
    task = load_task("arithmetic?operators=+&size=5")
    gold = task.problems[0].columns["answer"]
    assert reward(task, 0, str(gold), f"It is {gold}.", str(gold + 1), f"{gold} or {gold + 1}", "", "many") == [
        1.0, 1.0, 0.0, 0.0, 0.0, 0.0,
    ]  # fmt: skip


def test_countdown_takes_its_own_solutions_and_no_others() -> None:
    task = load_task("countdown?max_level=4&size=15")
    for row, problem in enumerate(task.problems):
        solution = problem.columns["solution"]
        assert reward(task, row, f"so <answer>{solution}</answer>", f"<answer>{solution} = 7</answer>") == [1.0, 1.0]
    numbers, target = task.problems[0].columns["numbers"], task.problems[0].columns["target"]
    joined = {op: f"<answer>{numbers[0]} {op} {numbers[1]}</answer>" for op in "+-*"}
    values = {"+": sum(numbers), "-": numbers[0] - numbers[1], "*": numbers[0] * numbers[1]}
    assert reward(task, 0, *joined.values()) == [1.0 if values[op] == target else 0.1 for op in joined]
    wrong = [str(target), f"<answer>{target}</answer>", "<answer></answer>", "<answer>9**9**9</answer>", solution]
    assert reward(task, 0, *wrong) == [0.0] * 5


def test_countdown_without_partial_credit_is_right_or_wrong() -> None:
    task = load_task({"name": "countdown", "partial": 0, "size": 1, "place": "line"})
    numbers = task.problems[0].columns["numbers"]
    tries = [f"try:\n{numbers[0]} {op} {numbers[1]}" for op in "+-*/"]
    assert set(reward(task, 0, *tries)) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [("(3 + 4) * 2", 14), ("8 / (3 - 1)", 4), ("-2 + 3", 1), ("7 ÷ 2 × 2", 7), ("1 / 3 * 3", 1)],
)
def test_expressions_have_exact_values(text: str, value: int) -> None:
    read = evaluate(text)
    assert read is not None
    assert read[0] == value


@pytest.mark.parametrize(
    "text",
    ["", "2 ** 3", "7 // 2", "1 / 0", "3(4)", "abs(3)", "1 +", "1.5 + 2", "2 if 1 else 3", "(" * 199,
     "1" * 300, "__import__('os')", "3, 4", "٣ + 4"],
)  # fmt: skip
def test_anything_but_arithmetic_has_no_value(text: str) -> None:
    assert evaluate(text) is None


def test_a_fifth_is_held_out() -> None:
    share = sum(split_of(str(number)) == "eval" for number in range(5000)) / 5000
    assert share == pytest.approx(0.2, abs=0.02)


PLACES = {
    "last": ("first 3, then 4.", "4"),
    "line": ("two\n lines \n\n", "lines"),
    "tag": ("<answer> a b\n</answer> c", "a b"),
    "boxed": (r"is \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
    "hashes": ("so\n#### 12", "12"),
    "phrase": ("The answer is 12.", "12"),
    "whole": (" all of it ", "all of it"),
    "auto": ("well, <answer>x</answer>", "x"),
}


@pytest.mark.parametrize("place", PLACES)
def test_answers_are_found_where_the_prompt_asks_for_them(place: Any) -> None:
    text, answer = PLACES[place]
    asking = Asking(place=place)
    assert asking.answer(text) == answer
    assert asking.answer("") is None
    assert asking.prompt("q?")[0] == {"role": "system", "content": SYSTEM_PROMPTS[place]}


def test_prompts_are_chats_or_text_with_the_system_prompt_that_is_asked_for() -> None:
    assert Asking(system_prompt="").prompt("q?") == [{"role": "user", "content": "q?"}]
    assert Asking(system_prompt="s", style="plain").prompt("q?") == "s\n\nq?"
    assert Asking(system_prompt="", style="plain").prompt("q?") == "q?"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("countdwn", 'there is no task "countdwn".*countdown'),
        ("countdown?max_nmber=3", 'has no parameter "max_nmber".*Did you mean "max_number"'),
        ("countdown?level=9", "levels 1 to 5, not 9"),
        ("countdown?place=last", "place last finds a number"),
        ("countdown?max_target=two", "max_target is 'two'"),
        ("arithmetic?operators=/", 'operators is "/"'),
        ("arithmetic?place=tags", "place is 'tags'.*Did you mean \"tag\""),
        ("arithmetic?size=0", "size is 0"),
        ("arithmetic?level=3&max_level=2", "max_level is 2"),
        ("math?place=last", "task math: place is 'last'"),
        ("reasoning-gym", "reasoning-gym:NAME"),
        ("reasoning-gym:", "reasoning-gym:NAME"),
        ("countdown:x", "there is no task"),
        ({"name": "arithmetic", "params": {"level": 7}}, "levels 1 to 6"),
    ],
)
def test_mistakes_are_named(task: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_task(task)


def rows_file(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_gsm8k_takes_the_number_after_the_hashes(tmp_path: Path) -> None:
    rows = [{"question": "6 x 7?", "answer": "6 x 7 is 42.\n#### 42"}, {"question": "a lot?", "answer": "#### 1,234"}]
    file = rows_file(tmp_path / "rows.jsonl", rows)
    task = load_task({"name": "gsm8k", "path": file, "subset": None, "split": "[:1]", "eval_split": "[1:]"})
    assert task.eval_problems is not None
    assert [p.columns["answer"] for p in (*task.problems, *task.eval_problems)] == ["42", "1234"]
    assert reward(task, 0, "<answer>42</answer>", "<answer>42.0 apples</answer>", "42", "<answer>43</answer>") == [
        1.0, 1.0, 0.0, 0.0,
    ]  # fmt: skip
    named = load_task({"name": "gsm8k", "path": "rows.jsonl", "subset": None, "eval_split": None}, tmp_path)
    assert (len(named.problems), named.eval_problems) == (2, None)


@pytest.mark.slow
def test_math_compares_the_boxes(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    file = rows_file(
        tmp_path / "rows.jsonl", [{"problem": "q", "solution": r"so \boxed{\frac{1}{2}}", "level": "Level 1"}]
    )
    task = load_task({"name": "math", "path": file, "eval_split": None})
    assert task.problems[0].columns == {"answer": r"\frac{1}{2}", "level": "Level 1"}
    assert reward(task, 0, r"\boxed{0.5}", r"\boxed{\frac{2}{4}}", r"\boxed{2}", "one half") == [1.0, 1.0, 0.0, 0.0]


def test_rows_without_an_answer_are_named(tmp_path: Path) -> None:
    file = rows_file(tmp_path / "rows.jsonl", [{"problem": "q", "solution": "no box"}])
    with pytest.raises(DataError, match=r"Line 1 of .*there is no .*boxed"):
        load_task({"name": "math", "path": file, "eval_split": None})
    with pytest.raises(DataError, match=r'Line 1 of .*there is no "####"'):
        load_task(
            {"name": "gsm8k", "path": file, "subset": None, "eval_split": None, "question": "problem",
             "solution": "solution"}
        )  # fmt: skip
    with pytest.raises(ConfigError, match='has no column "answer" for the solution; it has problem, solution'):
        load_task({"name": "gsm8k", "path": file, "subset": None, "eval_split": None, "question": "problem"})


def test_a_recipe_names_its_task_in_either_form_and_adds_rewards() -> None:
    short = Recipe(task="countdown?max_number=30", rewards=["length"])
    long = Recipe(task={"name": "countdown", "max_number": 30}, rewards=["length"])
    assert short == long == Recipe(**json.loads(json.dumps(short.resolved())))
    assert str(short.task) == "countdown?max_number=30"
    gated = Recipe(task="countdown", rewards=[{"name": "length", "when": {"countdown": 1}}])
    assert gated.rewards[0].when == {"countdown": 1.0}
    gym = Recipe(data="reasoning-gym:gcd?max_value=9")
    assert (gym.data, gym.task and gym.task.resolved()) == (None, {"name": f"{GYM}:gcd", "max_value": 9})


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"task": "countdown", "data": "python-docs"}, "task stands beside data"),
        ({"task": "countdown", "rewards": ["length"], "reward_weights": [1.0]}, "reward_weights stands beside task"),
        ({"task": "cuntdown"}, 'Did you mean "countdown"'),
        ({"task": "countdown?plce=tag"}, 'Did you mean "place"'),
        ({"task": "countdown", "rewards": [{"name": "length", "when": {"coutdown": 1}}]}, 'gated by "coutdown"'),
    ],
)
def test_what_a_recipe_cannot_combine_is_refused(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe(**recipe)


def test_settings_are_frozen_values() -> None:
    assert Countdown(max_number=9) == Countdown(max_number=9)
