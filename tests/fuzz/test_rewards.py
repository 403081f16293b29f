"""Reward functions that return anything, and rewards that are named by anything."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from groupwise.rewards import RewardScorer, resolve_rewards

from .harness import any_values, attempt, fuzz, plain_values, texts

sys.path.insert(0, str(Path(__file__).parents[1] / "rewards"))

from groups import CHAT, make_group

GROUPS = [make_group("a plain prompt", ["one", "two words"], answer="x"), make_group(CHAT, ["three", ""], draw=1)]
NUM = 4

arrays = st.sampled_from(
    [np.zeros(NUM), np.zeros((2, 2)), np.array(["a"] * NUM), np.array([None] * NUM), np.array([1 + 2j] * NUM),
     np.array(1.0),
     np.array([math.inf] * NUM), torch.zeros(NUM), torch.zeros(NUM, 1), torch.tensor([math.nan] * NUM),
     torch.zeros(NUM, dtype=torch.bool), torch.zeros(NUM, requires_grad=True), torch.zeros(0), np.float16(3),
     torch.tensor(1.0)]
)  # fmt: skip
scores = st.one_of(
    st.floats(), st.integers(), st.booleans(), st.none(), any_values, arrays,
    st.lists(st.tuples(st.one_of(st.integers(-1, 4), any_values), st.one_of(st.floats(), any_values)), max_size=3),
)  # fmt: skip
returns = st.one_of(any_values, arrays, st.lists(scores, min_size=NUM, max_size=NUM), st.lists(scores, max_size=6),
                    st.tuples(scores, scores, scores, scores))  # fmt: skip


@fuzz
@given(returns)
def test_returns_of_any_kind(value: Any) -> None:
    def strange(completions: list[Any], **columns: Any) -> Any:
        return value

    scorer = RewardScorer(resolve_rewards([strange]), ["answer"])
    scored = attempt("reward returns", lambda: scorer.score(GROUPS))
    if scored is not None:
        for group in scored.groups:
            assert len(group.reward) == 2
            assert all(r is None or (type(r) is float and math.isfinite(r)) for r in group.reward)


@fuzz
@given(st.text(max_size=5), any_values, st.one_of(texts, any_values), any_values)
def test_what_is_logged_is_of_any_kind(name: str, number: Any, column: Any, values: Any) -> None:
    def tells(completions: list[Any], log_metric: Any, log_extra: Any, **columns: Any) -> list[float]:
        log_metric(name, number)
        log_extra(column, values)
        return [1.0] * len(completions)

    attempt("reward logs", lambda: RewardScorer(resolve_rewards([tells]), ["answer"]).score(GROUPS))


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, completions: list[Any], **columns: Any) -> Any:
        raise self.error


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


ERRORS = [ValueError("\ud800"), KeyError(b"\xff"), RecursionError(), MemoryError(), UnspeakableError(),
          StopIteration(), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), AssertionError("a" * 30_000),
          OSError(28, "full")]  # fmt: skip


@fuzz
@given(st.sampled_from(range(len(ERRORS))))
def test_exceptions_of_any_kind(number: int) -> None:
    attempt("reward exceptions", lambda: RewardScorer(resolve_rewards([Raises(ERRORS[number])]), []).score(GROUPS))


FORMS = st.sampled_from(
    ["length", "a.py:f", "a:b", ":", "os:system", "os:environ", "./x.py:f", ".py:", "x/y", "/", "..", "os.path:join"]
)


@fuzz
@given(
    st.one_of(
        any_values,
        FORMS,
        st.dictionaries(st.sampled_from(["name", "function", "model", "weight", "target", "tokenizer", "batch_size"]),
                        st.one_of(plain_values, FORMS), max_size=3),
    )
)  # fmt: skip
def test_rewards_named_by_anything(spec: Any) -> None:
    attempt("reward names", lambda: resolve_rewards([spec]))
