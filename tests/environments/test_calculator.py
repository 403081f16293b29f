"""The calculator: what each kind of reply is worth, and what comes back."""

from __future__ import annotations

import pytest

from groupwise.environments import Reply
from groupwise.environments.games.calculator import Calculator, calculate
from groupwise.errors import ConfigError
from groupwise.types import Problem

PROBLEM = Problem(0, "237 * 682", {"answer": 161634})
RIGHT = '<tool_call>{"name": "calculator", "arguments": {"expression": "237 * 682"}}</tool_call>'


def play(*replies, **settings):
    game = Calculator(**settings)
    game.reset(PROBLEM, 0)
    found = [game.step(Reply(text)) for text in replies]
    return game.final_reward(), found


@pytest.mark.parametrize(
    ("replies", "worth"),
    [
        (["It is 161634."], 1.0),
        (["It is 161,634."], 1.0),
        (["It is 5."], 0.0),
        (["161634 or 5"], 0.0),
        ([""], 0.0),
        (["<tool_call>237 * 682</tool_call>", "5"], 0.1),
        (['<tool_call>{"name": "calculator", "arguments": {"expression": "2 * 3"}}</tool_call>', "6"], 0.2),
        (['<tool_call>{"name": "calculater", "arguments": {"expression": "237 * 682"}}</tool_call>', "6"], 0.2),
        ([RIGHT, "5"], 0.3),
        ([RIGHT, "161634"], 1.0),
        ([RIGHT, RIGHT, RIGHT], 0.3),
        ([RIGHT.removesuffix("</tool_call>"), "161634"], 1.0),
    ],
)
def test_the_best_that_was_done_counts(replies, worth):
    assert play(*replies)[0] == worth


def test_the_tool_answers_and_a_reply_without_a_call_ends():
    _, (first, last) = play(RIGHT, "161634")
    assert [message["content"] for message in first.messages] == ["161634"]
    assert [message["role"] for message in first.messages] == ["tool"]
    assert not first.is_last
    assert last.done
    (call,) = first.calls
    assert (call.name, call.error) == ("calculator", None)


def test_wrong_calls_are_told_what_is_wrong():
    _, (unread,) = play("<tool_call>2 * 3</tool_call>")
    assert "not JSON" in unread.messages[0]["content"]
    _, (unknown,) = play(RIGHT.replace('"calculator"', '"calc"'))
    assert "there is calculator" in unknown.messages[0]["content"]
    _, (odd,) = play(RIGHT.replace("237 * 682", "(237)"))
    assert odd.messages[0]["content"] == '{"error": "ValueError: write NUMBER * NUMBER"}'
    assert odd.calls[0].error


def test_a_tool_that_is_not_available_still_earns_what_the_call_does():
    worth, (first, _) = play(RIGHT, "unavailable", is_available=False)
    assert first.messages[0]["content"] == "unavailable"
    assert worth == 0.3


def test_nothing_is_left_of_the_game_before():
    game = Calculator()
    game.reset(PROBLEM, 0)
    game.step(Reply("161634"))
    game.reset(PROBLEM, 0)
    assert game.final_reward() == 0.0


def test_splits_are_disjoint_and_always_the_same():
    for digits in (1, 2, 3):
        train, held_out = (Calculator(digits).problems(split) for split in ("train", "eval"))
        assert Calculator(digits).problems("train") == train
        questions = [row["prompt"][-1]["content"] for row in [*train, *held_out]]
        assert len(set(questions)) == len(questions)
        assert len(held_out) * 10 <= len(train)
        assert all(
            calculate(text[8:-1]) == row["answer"] for text, row in zip(questions, [*train, *held_out], strict=True)
        )
    assert (len(train), len(held_out)) == (1000, 100)


def test_examples_are_calls_that_the_game_reads():
    for examples in range(5):
        (row, *_) = Calculator(examples=examples).problems("train")
        assert len(row["prompt"]) == 2 + 4 * examples
        for question, call, result, answer in zip(*[iter(row["prompt"][1:-1])] * 4, strict=True):
            game = Calculator()
            game.reset(Problem(0, "", {"answer": int(answer["content"])}), 0)
            assert game.step(Reply(call["content"])).messages[0]["content"] == result["content"] == answer["content"]
            assert game.final_reward() == 0.3
            assert question["role"] == "user"


@pytest.mark.parametrize("expression", ["", "2", "2 ** 3", "2 * 3 * 4", "__import__('os')", "9" * 10 + " * 2", "2/3"])
def test_only_two_numbers_are_calculated(expression):
    with pytest.raises(ValueError, match="write NUMBER"):
        calculate(expression)


@pytest.mark.parametrize("settings", [{"digits": 0}, {"digits": 7}, {"examples": 9}])
def test_a_game_that_cannot_be_played_is_refused(settings):
    with pytest.raises(ConfigError, match="there are 1 to 6 digits"):
        Calculator(**settings)
