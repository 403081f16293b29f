"""The scorer: what functions are handed, what they may return, and how their rewards add up."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import pickle
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groupwise.errors import ConfigError, RewardError
from groupwise.rewards import RewardFunction, RewardScorer, ScoredGroups, resolve_rewards
from groupwise.rewards.call_limits import CallLimits

from .groups import CHAT, make_group


def score(function: Callable[..., Any], *groups: Any, **settings: Any) -> ScoredGroups:
    return RewardScorer([RewardFunction.of(function)]).score(groups, **settings)


def returning(value: Any) -> Callable[..., Any]:
    def fixed(completions: Any) -> Any:
        return value

    return fixed


THREE = make_group("p", ["a b", "c", "d e f"], draw=4, answer="yes")


def test_plain_prompts_give_strings_so_len_counts_characters():
    def reward_len(completions, **kwargs):
        return [-abs(50 - len(completion)) for completion in completions]

    texts = ["x" * 50, "short", "größer"]
    assert score(reward_len, make_group("p", texts)).groups[0].reward == (0.0, -45.0, -44.0)


def test_chats_give_message_lists_so_len_counts_messages():
    def reward_len(completions, **kwargs):
        return [len(completion) for completion in completions]

    assert score(reward_len, make_group(CHAT, ["red", "dark blue"])).groups[0].reward == (1.0, 1.0)


def test_a_function_sees_aligned_lists_of_everything():
    seen: dict[str, Any] = {}

    def look(prompts, completions, completion_ids, trainer_state, log_metric, log_extra, **columns):
        seen.update(prompts=prompts, completions=completions, completion_ids=completion_ids, columns=columns)
        return [0.0] * len(prompts)

    score(look, make_group("p", ["a b", "c"], answer="x", level=1), make_group(CHAT, ["d"], draw=1, level=2))
    assert seen["prompts"] == ["p", "p", CHAT]
    assert seen["completions"] == ["a b", "c", [{"role": "assistant", "content": "d"}]]
    assert seen["completion_ids"] == [[1, 2, 0], [1, 0], [1, 0]]
    assert seen["columns"] == {"answer": ["x", "x", None], "level": [1, 1, 2]}


def test_a_function_gets_only_what_its_signature_accepts():
    def picky(completions, answer):
        return [float(text == gold) for text, gold in zip(completions, answer, strict=True)]

    assert score(picky, make_group("p", ["yes", "no"], answer="yes", other=1)).groups[0].reward == (1.0, 0.0)


def test_state_and_logs_go_to_functions_that_name_them_or_take_every_keyword():
    def asks(completions, trainer_state, log_metric, log_extra, **columns):
        log_metric("half", 1.0)
        log_metric("half", 2.0)
        log_extra("shout", [text.upper() for text in completions])
        return [trainer_state.step] * len(completions)

    def takes_all(completions, **kwargs):
        assert set(kwargs) == {"prompts", "completion_ids", "answer", "trainer_state", "log_metric", "log_extra"}
        kwargs["log_metric"]("state", kwargs["trainer_state"].step)
        pickle.dumps(kwargs)  # to a worker process
        return [0.0] * len(completions)

    def takes_columns(completions, answer):
        return [0.0] * len(completions)

    scored = RewardScorer(resolve_rewards([asks, takes_all, takes_columns])).score(
        [THREE], trainer_state=SimpleNamespace(step=7)
    )
    assert scored.groups[0].rewards["asks"] == (7.0, 7.0, 7.0)
    assert scored.logged == {"half": 1.5, "state": 7.0}
    assert scored.extras == {"shout": ["A B", "C", "D E F"]}


def test_the_problems_survive_a_function_that_writes_to_its_arguments():
    def vandal(prompts, completions, **columns):
        prompts[0].append({"role": "user", "content": "more"})
        completions[0][0]["content"] = ""
        return [0.0] * len(prompts)

    def after(prompts, completions):
        assert prompts == [CHAT]
        assert completions == [[{"role": "assistant", "content": "red"}]]
        return [1.0]

    group = make_group(CHAT, ["red"])
    scored = RewardScorer(resolve_rewards([vandal, after])).score([group])
    assert scored.groups[0].problem.prompt == CHAT
    assert scored.groups[0].completions == group.completions


class Bonus:
    def __init__(self, size: float) -> None:
        self.size = size

    def __call__(self, completions):
        return [self.size] * len(completions)

    def method(self, completions, **columns):
        return [2 * self.size] * len(completions)

    @staticmethod
    async def later(completions):
        return [3.0] * len(completions)


class AsyncBonus:
    async def __call__(self, completions):
        return [4.0] * len(completions)


def test_every_kind_of_callable_is_a_reward_function():
    def scaled(completions, answer, factor):
        return [factor * len(answer[0])] * len(completions)

    functions = resolve_rewards(
        [
            Bonus(1.0),
            Bonus(1.0).method,
            Bonus.later,
            AsyncBonus(),
            functools.partial(scaled, factor=2),
            lambda completions: [6] * len(completions),
        ]
    )
    scored = RewardScorer(functions).score([make_group("p", ["a"], answer="abc", factor=100)])
    assert scored.groups[0].rewards == {
        "Bonus": (1.0,),
        "method": (2.0,),
        "later": (3.0,),
        "AsyncBonus": (4.0,),
        "scaled": (6.0,),
        "lambda": (6.0,),
    }


def test_functions_of_one_name_are_numbered():
    def named(name: str) -> Callable[..., Any]:
        function = functools.partial(returning([1.0]))
        function.__name__ = name  # type: ignore[attr-defined]
        return function

    one = returning([1.0])
    names = [f.name for f in resolve_rewards([one, one, named("x"), one])]
    assert names == ["fixed", "fixed_2", "fixed_3", "fixed_4"]


def test_a_numbered_name_steps_aside_for_one_that_is_taken():
    functions = [RewardFunction(name, returning([1.0])) for name in ("r", "r", "r_2")]
    assert [f.name for f in RewardScorer(functions).functions] == ["r", "r_3", "r_2"]


# ------------------------------------------------------------------------------------------------ what may be returned


@pytest.mark.parametrize(
    "value",
    [
        [1.0, 0.0, 2.0],
        (True, False, 2),
        np.array([1.0, 0.0, 2.0], dtype=np.float32),
        torch.tensor([1.0, 0.0, 2.0], dtype=torch.bfloat16, requires_grad=True),
        [np.float32(1), np.bool_(False), torch.tensor(2.0)],
        [torch.tensor([1.0]), np.int64(0), np.array([2])],
    ],
)
def test_numbers_of_every_library_are_rewards(value):
    assert score(returning(value), THREE).groups[0].reward == (1.0, 0.0, 2.0)


def test_none_and_nan_mean_unscored():
    scored = score(returning([None, float("nan"), np.nan]), THREE)
    assert scored.groups[0].reward == (None, None, None)
    assert score(returning(torch.tensor([0.0, float("nan"), 1.0])), THREE).groups[0].reward == (0.0, None, 1.0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1.0], r"1 rewards for 3 .*first without one: completion 2 of 3 \(row 5 of the data\): 'c'"),
        ([1.0] * 4, "4 rewards for 3"),
        (
            [0, "1.0", 0],
            r"'1.0' \(str\), which is not a number. It was for completion 2 of 3 \(row 5 of the data\): 'c'",
        ),
        ([0, 0, float("inf")], "inf, .* for completion 3 .* 'd e f'"),
        ([10**400, 0, 0], "inf, .* for completion 1"),
        ([0, -(10**400), 0], "-inf, .* for completion 2"),
        ([1j, 0, 0], "not a number"),
        (np.ones((3, 1)), r"shape \(3, 1\); expected a list of 3 numbers"),
        (torch.tensor(1.0), "expected a list of 3 numbers"),
        ([[1.0], 0, 0], "which is not a number"),
        (1.0, r"returned 1.0 \(float\); expected a list"),
        ("abc", "expected a list"),
        (None, r"returned None \(NoneType\); expected a list"),
    ],
)
def test_anything_else_is_an_error_with_function_row_and_completion(value, expected):
    with pytest.raises(RewardError, match=expected) as caught:
        score(returning(value), THREE)
    assert '"fixed"' in str(caught.value)


def test_a_long_completion_is_shortened_in_the_error():
    with pytest.raises(RewardError, match=r"\.\.\. .*\(5000 characters\)") as caught:
        score(returning(["bad"]), make_group("p", ["x" * 5000]))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("prompt", ["p", CHAT])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_exception_names_function_line_and_the_completion_it_was_at(prompt, is_async):
    def parse(completions):
        return [json.loads(c if isinstance(c, str) else c[0]["content"])["score"] for c in completions]

    async def parse_later(completions):
        await asyncio.sleep(0)
        return parse(completions)

    group = make_group(prompt, ['{"score": 1}', "not json", '{"score": 2}'])
    with pytest.raises(
        RewardError, match=r"JSONDecodeError.*completion 2 of \d \(row 1 of the data\): 'not json'"
    ) as caught:
        score(parse_later if is_async else parse, group)
    assert isinstance(caught.value.__cause__, json.JSONDecodeError)
    assert "test_scorer.py, line" in str(caught.value)


@pytest.mark.parametrize(
    "treat",
    [
        lambda completion: completion.strip(),
        lambda completion: re.findall("a", completion),
        lambda completion: {completion},
        lambda completion: completion + "!",
        lambda completion: completion[0].lower(),
        lambda completion: completion["content"],
    ],
)
def test_a_reward_that_takes_a_chat_for_a_string_is_told_of_its_text(treat):
    def reward(completions):
        return [float(bool(treat(completion))) for completion in completions]

    with pytest.raises(RewardError, match=r"each completion is a list of messages; completion_text\(completion\)"):
        score(reward, make_group(CHAT, ["a", "b"]))
    plain = [lambda text: text.nothing, lambda text: [].strip()]
    for wrong in plain:
        with pytest.raises(RewardError) as caught:
            score(lambda completions, wrong=wrong: [wrong(text) for text in completions], make_group("hi", ["a", "b"]))
        assert "completion_text" not in str(caught.value)


def test_an_exception_about_no_completion_shows_the_first():
    def broken(completions):
        raise KeyError("oops")

    with pytest.raises(RewardError, match=r"KeyError: 'oops' .*one of 3 completions; the first is completion 1"):
        score(broken, THREE)


@functools.lru_cache
def cached(completions):
    raise AssertionError("a list cannot be looked up, so it is never called")


def misspells_a_keyword(completions):
    return [cached(completion, lenght=3) for completion in completions]


def cached_by_partial(completions, size):
    raise AssertionError("never called")


@pytest.mark.parametrize(
    ("function", "what", "line"),
    [
        (cached, "unhashable type", cached.__wrapped__.__code__.co_firstlineno),
        (functools.partial(functools.lru_cache(cached_by_partial), size=3), "unhashable type", None),
        (misspells_a_keyword, "unexpected keyword argument 'lenght'", misspells_a_keyword.__code__.co_firstlineno + 1),
    ],
    ids=["cached", "cached by partial", "wrong keyword"],
)
@pytest.mark.parametrize("timeout_s", [0, 60])
def test_a_call_that_python_refuses_is_told_with_the_users_line(function, what, line, timeout_s):
    reward = replace(RewardFunction.of(function), limits=CallLimits(timeout_s=timeout_s))
    with pytest.raises(RewardError, match=rf"TypeError: .*{what}.*\(.*test_scorer.py, line {line or ''}") as caught:
        RewardScorer([reward]).score([THREE])
    assert "interrupt.py" not in str(caught.value)


def test_extras_must_have_one_value_a_completion():
    def logs(completions, log_extra):
        log_extra("note", ["only one"])
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match=r'"logs" gave log_extra\("note", ...\) 1 values for 3 completions'):
        score(logs, THREE)


# --------------------------------------------------------------------------------------------------- the weighted sum

SCORE = st.one_of(st.none(), st.floats(-1e3, 1e3))


@given(st.lists(st.tuples(SCORE, SCORE), min_size=1, max_size=6), st.tuples(st.floats(-2, 2), st.floats(-2, 2)))
def test_the_reward_is_the_weighted_sum_over_those_that_scored(rows, weights):
    functions = resolve_rewards([returning([a for a, _ in rows]), returning([b for _, b in rows])], weights=weights)
    group = RewardScorer(functions).score([make_group("p", ["t"] * len(rows))]).groups[0]
    for row, reward in zip(rows, group.reward, strict=True):
        scored = [w * r for w, r in zip(weights, row, strict=True) if r is not None]
        assert reward == (sum(scored) if scored else None)
    assert group.rewards["fixed"] == tuple(a for a, _ in rows)


def test_scoring_groups_together_equals_judging_each_alone():
    groups = [make_group("p", ["a", "b b"], 0, answer="a"), make_group(CHAT, ["c"], 1), make_group("p", [], 2)]
    for function in resolve_rewards(["length", lambda completions: [hash(str(c)) % 7 for c in completions]]):
        together = RewardScorer([function]).score(groups).groups
        alone = [RewardScorer([function]).score([group]).groups[0] for group in groups]
        assert [g.reward for g in together] == [g.reward for g in alone]


def test_an_untouched_group_keeps_everything_else():
    scored = score(returning([1, 2, 3]), THREE).groups[0]
    assert (scored.draw, scored.problem, scored.completions) == (THREE.draw, THREE.problem, THREE.completions)


# ------------------------------------------------------------------------------------------------------- asynchronous


def test_asynchronous_functions_wait_together():
    first_may_go = None

    async def first(completions):
        nonlocal first_may_go
        first_may_go = asyncio.Event()
        await asyncio.wait_for(first_may_go.wait(), timeout=5)
        return [1.0] * len(completions)

    async def second(completions):
        while first_may_go is None:
            await asyncio.sleep(0.001)
        first_may_go.set()
        return [2.0] * len(completions)

    scored = RewardScorer(resolve_rewards([first, second])).score([THREE])
    assert scored.groups[0].reward == (3.0, 3.0, 3.0)


def test_asynchronous_functions_work_inside_a_running_loop():
    async def notebook():
        return score(AsyncBonus(), THREE)

    assert asyncio.run(notebook()).groups[0].reward == (4.0, 4.0, 4.0)


def test_one_loop_serves_all_calls_of_a_scorer():
    loops = set()

    async def where(completions):
        loops.add(asyncio.get_running_loop())
        return [0.0] * len(completions)

    scorer = RewardScorer([RewardFunction.of(where)])
    scorer.score([THREE])
    scorer.score([THREE])
    (loop,) = loops
    assert not loop.is_closed()
    del scorer
    assert loop.is_closed()


def test_a_forked_process_has_a_loop_of_its_own():
    scorer = RewardScorer(resolve_rewards([AsyncBonus()]))
    scorer.score([THREE])
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # the loop of the parent would wait for ever
        os._exit(scorer.score([THREE]).groups[0].reward != (4.0, 4.0, 4.0))
    assert os.waitpid(pid, 0)[1] == 0


def test_a_failure_cancels_what_still_waits():
    cancelled = []

    async def patient(completions):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    def broken(completions):
        time.sleep(0.02)
        raise ValueError("no")

    with pytest.raises(RewardError, match="no"):
        RewardScorer(resolve_rewards([patient, broken])).score([THREE])
    deadline = time.monotonic() + 5
    while not cancelled and time.monotonic() < deadline:
        time.sleep(0.001)
    assert cancelled


def test_seconds_are_those_of_each_function():
    def slow(completions):
        time.sleep(0.05)
        return [0.0] * len(completions)

    async def slow_async(completions):
        await asyncio.sleep(0.02)
        return [0.0] * len(completions)

    seconds = RewardScorer(resolve_rewards([slow, slow_async, returning([0, 0, 0])])).score([THREE]).seconds
    assert list(seconds) == ["slow", "slow_async", "fixed"]
    assert seconds["slow"] >= 0.05
    assert seconds["slow_async"] >= 0.02
    assert seconds["fixed"] < seconds["slow"]


# ---------------------------------------------------------------------------------------------------------- signatures


def test_a_missing_column_is_named_before_any_rollout():
    def grade(completions, anwser):
        raise AssertionError("never called")

    message = 'takes "anwser", and the data set has no such column. Available: .*level.* Did you mean "answer"'
    with pytest.raises(RewardError, match=message):
        RewardScorer([RewardFunction.of(grade)], ["answer", "level"])
    with pytest.raises(RewardError, match=message):
        score(grade, make_group("p", ["a"], answer="x", level=1))


def test_a_parameter_with_a_default_need_not_be_a_column():
    def grade(completions, tolerance=0.5, **columns):
        return [tolerance] * len(completions)

    assert score(grade, THREE).groups[0].reward == (0.5, 0.5, 0.5)


def test_a_known_column_that_no_problem_at_hand_has_is_none():
    def grade(completions, answer):
        return [None if gold is None else 1.0 for gold in answer]

    scored = RewardScorer([RewardFunction.of(grade)], ["answer"]).score([make_group("p", ["a"])])
    assert scored.groups[0].reward == (None,)


def test_a_column_may_not_hide_what_was_sampled():
    function = RewardFunction.of(returning([1.0]))
    with pytest.raises(RewardError, match=r'column "completions".*columns: {data_completions: completions}'):
        function.check(["completions"])
    function.check(["trainer_state"])


def test_a_signature_that_cannot_be_called_by_keyword_is_refused():
    def by_position(completions, /):
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match='takes "completions" by position only'):
        RewardFunction.of(by_position)
    with pytest.raises(RewardError, match='signature of reward function "max" cannot be read'):
        RewardFunction.of(max)


def test_no_function_at_all_is_an_error():
    with pytest.raises(ConfigError, match="no reward function"):
        RewardScorer([])


def test_no_groups_are_scored_without_a_call():
    def never(completions):
        raise AssertionError

    assert score(never).groups == ()


@pytest.mark.parametrize(
    ("missing", "columns", "near"),
    [
        ("solution", ["answer", "level"], ' Did you mean "answer"?'),
        ("answer", ["label", "answers"], ' Did you mean "answers" or "label"?'),
        ("completion", ["answer"], ' Did you mean "completions"?'),
        ("tests", ["answer"], ""),  # "trainer_state" and the other keywords are no columns
        ("levle", ["answer", "level"], ' Did you mean "level"?'),
    ],
)
def test_columns_are_suggested_by_what_they_mean(missing, columns, near):
    grade = eval(f"lambda completions, {missing}: []")
    with pytest.raises(RewardError) as caught:
        RewardFunction.of(grade).check(columns)
    assert str(caught.value).partition("log_why.")[2] == f"{near} Give the parameter a default if it is not a column."
