"""What one call of a reward function changes, no completion, call, evaluation or epoch sees."""

from __future__ import annotations

import copy
import dataclasses
import sys
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from api_helpers import trainer

from groupwise.data import load_problems
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.rewards.copies import copies, without_arrays
from groupwise.rewards.flat_groups import group_from_completions
from groupwise.testing import score


@dataclasses.dataclass
class State:
    moves: list[int]


VALUES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "a list": (lambda: [3, 1, 2], lambda v: v.sort()),
    "a list in a list": (lambda: [[1], [2]], lambda v: v[0].append(9)),
    "a dict": (lambda: {"gold": 1, "n": [1]}, lambda v: v.pop("gold")),
    "a dict in a dict": (lambda: {"a": {"b": {"c": 1}}}, lambda v: v["a"]["b"].clear()),
    "a list in a tuple": (lambda: ("x", [1]), lambda v: v[1].append(2)),
    "a set": (lambda: {1, 2}, lambda v: v.discard(1)),
    "a set in a dict": (lambda: {"s": {1, 2}}, lambda v: v["s"].clear()),
    "a bytearray": (lambda: bytearray(b"ab"), lambda v: v.append(1)),
    "an array": (lambda: np.arange(3), lambda v: v.fill(7)),
    "a tensor": (lambda: torch.arange(3), lambda v: v.zero_()),
    "a mapping of another kind": (lambda: defaultdict(list, a=[1]), lambda v: v["a"].append(2)),
    "other containers": (lambda: [OrderedDict(a=1), deque([1])], lambda v: v[1].append(2)),
    "an object": (lambda: State([1]), lambda v: v.moves.append(2)),
    "an object in a list": (lambda: [State([1])], lambda v: v[0].moves.append(2)),
    "keys that are tuples": (lambda: {(0, 1): [1]}, lambda v: v[0, 1].append(2)),
    "a row that stands three times in a grid": (lambda: [[0, 0]] * 3, lambda v: v[0].append(1)),
    "a list in itself": (lambda: (lambda v: (v.append(v), v)[1])([1]), lambda v: v.insert(0, 5)),
}


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)


@pytest.mark.parametrize("name", VALUES)
def test_a_change_of_one_copy_reaches_no_other_and_not_the_value(name: str) -> None:
    make, change = VALUES[name]
    value = make()
    first, second = copies(value, 2)
    assert same(first, value)
    assert type(first) is type(value)
    change(first)
    assert not same(first, make())
    assert same(second, make())
    assert same(value, make())


@pytest.mark.parametrize("value", ["text", 5, None, (1, ("a", b"b")), frozenset({1}), threading, threading.Lock(), len])
def test_what_cannot_change_or_cannot_be_copied_is_shared(value: Any) -> None:
    assert all(each is value for each in copies(value, 3))
    assert all(each[0] is value for each in copies([value], 3))


def test_places_that_share_a_list_share_it_in_the_copy() -> None:
    (grid,) = copies([[0, 0]] * 2, 1)
    grid[0][0] = 1
    assert grid == [[1, 0], [1, 0]]


def test_a_value_nested_ever_more_often_takes_no_time() -> None:
    value: Any = [1]
    for _ in range(60):
        value = [value, value]
    constants: Any = (1, 2)
    for _ in range(60):
        constants = (constants, constants)
    assert copies(constants, 2)[0] is constants
    (found,) = copies(value, 1)
    assert found[0] is found[1]


def test_deep_values_are_copied() -> None:
    value: list[Any] = []
    for _ in range(sys.getrecursionlimit() // 4):
        value = [value]
    first, second = copies(value, 2)
    first[0].append(1)
    assert len(second[0]) == 1


def test_arrays_become_lists_at_any_depth() -> None:
    value = {"a": [torch.eye(2), (np.int64(1), "x")], "b": None}
    assert without_arrays(value) == {"a": [[[1.0, 0.0], [0.0, 1.0]], [1, "x"]], "b": None}
    loop: list[Any] = [1, []]
    loop.append(loop)
    assert without_arrays(loop)[:2] == [1, []]


# --- through the rewards ---

ROWS = [
    {
        "prompt": [{"role": "user", "content": [{"type": "text", "text": f"say {i}"}], "extra": {"keys": [i]}}],
        "meta": {"gold": i, "tests": [{"in": [i], "out": i}]},
        "answers": [i, i + 1],
    }
    for i in range(4)
]


def spoils(prompts: Any, completions: Any, meta: Any, answers: Any, completion_ids: Any, **columns: Any) -> list[float]:
    """Scores 1 for each completion whose row is as it was, and leaves nothing of it."""
    found = []
    for row in zip(prompts, completions, meta, answers, completion_ids, strict=True):
        prompt, completion, info, listed, ids = row
        number = info.get("gold")
        is_whole = number is not None and list(row[:1]) + list(row[2:4]) == [
            ROWS[number]["prompt"], ROWS[number]["meta"], ROWS[number]["answers"]
        ]  # fmt: skip
        found.append(float(is_whole and len(completion) == 1 and "content" in completion[0]))
        prompt[0]["content"][0].clear()
        prompt[0].setdefault("extra", {}).clear()
        prompt.clear()
        completion[0].clear()
        info.setdefault("tests", [{}])[0].clear()
        info.clear()
        listed.sort(reverse=True)
        del listed[:]
        ids.clear()
    for values in (prompts, completions, meta, answers):
        values.clear()
    return found


async def spoils_later(**everything: Any) -> list[float]:
    return spoils(**everything)


def group(row: int) -> Any:
    columns = {name: value for name, value in ROWS[row].items() if name != "prompt"}
    chat = [[{"role": "assistant", "content": text}] for text in ("a", "b", "c")]
    return group_from_completions(row, ROWS[row]["prompt"], chat, [[1], [2], [3]], columns)


def test_functions_completions_and_calls_do_not_see_what_another_did() -> None:
    before = copy.deepcopy(ROWS)
    scorer = RewardScorer(resolve_rewards([spoils, spoils_later, spoils]))
    for _ in range(2):
        scored = scorer.score([group(0), group(1)])
        assert all(rewards == (1.0, 1.0, 1.0) for g in scored.groups for rewards in g.rewards.values())
    assert before == ROWS


@pytest.mark.parametrize("make", [list, datasets.Dataset.from_list, tuple], ids=["list", "Dataset", "tuple"])
def test_epochs_and_evaluations_see_the_row_as_the_data_set_holds_it(make: Any, tmp_path: Path) -> None:
    before = copy.deepcopy(ROWS)
    data = make(ROWS)
    grpo = trainer(tmp_path, rewards=[spoils, spoils_later], data=data, max_steps=6, rest={"eval_dataset": data})
    assert grpo.evaluate()["eval_reward"] == 2.0
    grpo.train()
    assert [log["rewards/spoils/mean"] for log in grpo.state.log_history if "loss" in log] == [1.0] * 6
    assert grpo.evaluate()["eval_reward"] == 2.0
    assert before == ROWS
    assert list(data) == before


def test_a_function_that_is_handed_one_object_for_all_completions_gets_copies_of_it() -> None:
    def reward(completions: Any, meta: Any) -> list[float]:
        return [float(each.pop("gold", -1.0)) for each in meta]

    meta = {"gold": 2.0}
    assert score(reward, ["a", "b"], meta=meta) == [2.0, 2.0]
    assert meta == {"gold": 2.0}


def test_shipped_rewards_read_the_answers_of_a_tensor_format() -> None:
    rows = [{"prompt": "a", "answer": 3}, {"prompt": "b", "answer": 4}]
    for kind in ("torch", "numpy"):
        problems = load_problems(datasets.Dataset.from_list(rows).with_format(kind))
        groups = [group_from_completions(p.index, p.prompt, ["3", "4"], None, p.columns) for p in problems]
        scored = RewardScorer(resolve_rewards(["number", "exact_match"]), problems.column_names).score(groups)
        assert [g.reward for g in scored.groups] == [(2.0, 0.0), (0.0, 2.0)]
