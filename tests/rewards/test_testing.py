"""`groupwise.testing`: what it accepts, and that each assertion fails where it should."""

from __future__ import annotations

import pytest

from groupwise.errors import ConfigError, RewardError
from groupwise.rewards import Length
from groupwise.testing import (
    assert_independent,
    assert_prefers,
    assert_same_for_chats,
    assert_scores,
    assert_unscored,
    score,
)


def brevity(completions):
    return [-float(len(text)) for text in completions]


def graded(completions, answer, log_why):
    log_why([f"wants {each}" for each in answer])
    return [None if gold is None else float(gold in text) for text, gold in zip(completions, answer, strict=True)]


def test_score_takes_every_form_of_reward_and_completion(tmp_path):
    (tmp_path / "mine.py").write_text("def two(completions):\n    return [2 for _ in completions]\n")
    assert score(brevity, "four") == [-4]
    assert score(brevity, ["a", "bb"]) == [-1, -2]
    assert score("length", ["a" * 50]) == [0]
    assert score({"name": "length", "target": 3, "weight": 2}, "a") == [-4]
    assert score(Length(target=1), [[{"role": "assistant", "content": "ab"}]]) == [-1]
    assert score(f"{tmp_path}/mine.py:two", "x") == [2]
    assert score([brevity, {"name": "length", "target": 1}], "abc") == [-5]


def test_columns_are_one_value_each_or_one_for_all():
    assert score(graded, ["a", "b", "c"], answer=["a", "x", None]) == [1, 0, None]
    assert score(graded, ["a", "b"], answer="a") == [1, 0]
    assert score("exact_match", "Rome", answer=[["Roma", "Rome"]]) == [1]
    with pytest.raises(AssertionError, match="answer has 1 values for 2 completions"):
        score(graded, ["a", "b"], answer=["a"])


def test_prompts_and_token_ids():
    def looks(prompts, completions, completion_ids):
        return [len(p) + 10 * len(ids) for p, ids in zip(prompts, completion_ids, strict=True)]

    ids = [[1, 2], [3]]
    assert score(looks, ["a", "b"], prompts="ask", completion_ids=ids) == [23, 13]
    assert score(looks, ["a", "b"], prompts=["a", "ask"], completion_ids=ids) == [21, 13]
    assert score(looks, ["a", "b"], prompts=[{"role": "user", "content": "x"}], completion_ids=ids) == [21, 11]
    with pytest.raises(RewardError, match='takes "completion_ids", and these completions have no token ids'):
        score(looks, "a")
    with pytest.raises(RewardError, match="A length in tokens is counted in token ids"):
        score({"name": "length", "unit": "tokens"}, "a")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda completions: [], "returned 0 rewards for 1 completions"),
        (lambda completions: ["good"], "not a number"),
        (lambda completions: [float("inf")], "large finite number"),
        (lambda completions: 1 / 0, "raised ZeroDivisionError"),
        (lambda completions, gold: [1], 'takes "gold"'),
    ],
)
def test_whatever_would_stop_a_run_is_raised(reward, message):
    with pytest.raises(RewardError, match=message):
        score(reward, "x")


def test_a_misspelt_name_is_raised():
    with pytest.raises(ConfigError, match='Did you mean "length"'):
        score("lenght", "x")


def test_assert_prefers():
    assert_prefers(brevity, "a", "bb")
    assert_prefers(graded, "a", "b", answer="a")
    for better, worse in (("bb", "a"), ("a", "b")):
        with pytest.raises(AssertionError, match="the first should get more"):
            assert_prefers(brevity, better, worse)
    with pytest.raises(AssertionError, match=r"unscored:\nNone \(wants None\) for 'a'"):
        assert_prefers(graded, "a", "b", answer=None)


def test_assert_scores():
    assert_scores(brevity, {"a": -1, "bb": -2})
    assert_scores(graded, {"a": 1, "b": 0}, answer="a")
    assert_scores(lambda completions: [1 / 3] * len(completions), {"a": 0.333}, tolerance=1e-3)
    with pytest.raises(AssertionError, match=r"'b': 0.0 \(wants a\), expected 1"):
        assert_scores(graded, {"a": 1, "b": 1}, answer="a")
    with pytest.raises(AssertionError, match=r"'a': None .*, expected 0"):
        assert_scores(graded, {"a": 0}, answer=None)


def test_assert_unscored():
    assert_unscored(graded, ["a", "b"], answer=None)
    with pytest.raises(AssertionError, match=r"0.0 \(wants x\) for completion 1"):
        assert_unscored(graded, ["a", "b"], answer=[None, "x"])


def test_assert_independent():
    assert_independent(brevity, ["a", "bb", "ccc"])
    rank = {"function": brevity, "normalise": "batch"}
    with pytest.raises(AssertionError, match="completion 0 gets"):
        assert_independent(rank, ["a", "bb"])
    calls = []

    def counts(completions):
        calls.extend(completions)
        return [float(len(calls))] * len(completions)

    with pytest.raises(AssertionError, match="in the opposite order"):
        assert_independent(counts, ["a", "bb"])


def test_assert_same_for_chats_finds_the_trap_of_len():
    assert_same_for_chats("length", ["a", "bb"])
    with pytest.raises(AssertionError, match=r"-2.0 as text and -1.0 as a chat .* 'bb'"):
        assert_same_for_chats(brevity, ["a", "bb"])
