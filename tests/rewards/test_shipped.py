"""The shipped rewards, each against completions written out by hand."""

from __future__ import annotations

import pytest

from groupwise.errors import ConfigError, RewardError
from groupwise.rewards import SHIPPED, ExactMatch, Format, Length, RewardFunction, RewardScorer, resolve_rewards

from .groups import CHAT, make_group


def test_the_registry_calls_each_reward_by_its_own_name():
    assert {name: vars(reward)["__name__"] for name, reward in SHIPPED.items()} == {n: n for n in SHIPPED}
    assert RewardFunction.of(SHIPPED["length"]()).name == "length"


@pytest.mark.parametrize(("unit", "lengths"), [("characters", (7, 1, 0)), ("words", (2, 1, 0)), ("tokens", (3, 2, 1))])
@pytest.mark.parametrize("prompt", ["p", CHAT])
def test_length_is_the_distance_to_the_target_for_plain_text_and_chats_alike(prompt, unit, lengths):
    group = make_group(prompt, ["a green", "b", ""])
    reward = RewardScorer(resolve_rewards([Length(target=2, unit=unit)])).score([group]).groups[0].reward
    assert reward == tuple(-abs(2 - length) for length in lengths)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": -1}, "target is -1"),
        ({"target": "50"}, "target is '50'"),
        ({"target": True}, "target is True"),
        ({"target": float("nan")}, "target is nan"),
        ({"unit": "word"}, "unit is 'word'.*Did you mean \"words\""),
    ],
)
def test_length_refuses_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        Length(**settings)


@pytest.mark.parametrize(
    ("text", "strict", "soft"),
    [
        ("<think>a</think><answer>b</answer>", 1, 1),
        ("\n<think>\na\n</think>\n\n<answer>b</answer> ", 1, 1),
        ("<think></think><answer></answer>", 1, 1),
        ("So: <think>a</think> then <answer>b</answer>.", 0, 1),
        ("<think>a</think><answer>b", 0, 3 / 4),
        ("<think>a</think>", 0, 1 / 2),
        ("<answer>b</answer><think>a</think>", 0, 1 / 2),
        ("<answer>b</answer>", 0, 1 / 2),
        ("</answer><answer></think><think>", 0, 1 / 4),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0, 1 / 2),
        ("<think>a<answer>b</think></answer>", 0, 3 / 4),
        ("<THINK>a</THINK>", 0, 0),
        ("", 0, 0),
    ],
)
def test_format_strict_is_all_or_nothing_and_soft_counts_the_tags_in_place(text, strict, soft):
    assert Format()([text]) == [strict]
    assert Format(mode="soft")([text]) == [soft]


def test_format_takes_other_tags_and_chats():
    assert Format(tags=["a"])(["<a>x</a>", "<b>x</b>"]) == [1, 0]
    assert Format(tags="a")([[{"role": "assistant", "content": "<a>x</a>"}]]) == [1]


@pytest.mark.parametrize("tags", [[], ["<a>"], ["a", "a"], [1], [""]])
def test_format_refuses_what_is_no_tag(tags):
    with pytest.raises(ConfigError, match="Reward format: tags are"):
        Format(tags=tags)


def test_format_refuses_an_unknown_mode():
    with pytest.raises(ConfigError, match='Did you mean "strict"'):
        Format(mode="stric")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "text", "answer", "expected"),
    [
        ({}, " 42\n", "42", 1),
        ({}, "42", 42, 1),
        ({}, "142", "42", 0),
        ({}, "", "42", 0),
        ({}, "Paris", "paris", 0),
        ({}, "anything", None, None),
        ({"strip": False}, " 42", "42", 0),
        ({"ignore_case": True}, "PARIS", "paris", 1),
        ({"tag": "answer"}, "so <answer> 42 </answer> it is", "42", 1),
        ({"tag": "answer"}, "42", "42", 0),
        ({"tag": "answer"}, "<answer>42", "42", 0),
        ({"tag": "answer"}, "<answer>42</answer> no, <answer>41</answer>", "42", 0),
        ({"tag": "answer"}, "<answer>41</answer> no, <answer>42</answer>", "42", 1),
    ],
)
@pytest.mark.parametrize("prompt", ["p", CHAT])
def test_exact_match_compares_with_the_column(settings, text, answer, expected, prompt):
    group = make_group(prompt, [text], gold=answer)
    scored = RewardScorer(resolve_rewards([ExactMatch(column="gold", **settings)])).score([group])
    assert scored.groups[0].reward == (expected,)


def test_exact_match_asks_for_its_own_column():
    with pytest.raises(RewardError, match=r'"exact_match" takes "answer".* Did you mean "answers".* Set its `column`'):
        RewardScorer(resolve_rewards(["exact_match"]), ["answers"])
    RewardScorer(resolve_rewards([{"name": "exact_match", "column": "answers"}]), ["answers"])


@pytest.mark.parametrize("column", ["", "a b", "class", "completions", 3])
def test_exact_match_refuses_what_cannot_be_a_column(column):
    with pytest.raises(ConfigError, match="Reward exact_match: column is"):
        ExactMatch(column=column)


def test_exact_match_refuses_a_tag_with_brackets():
    with pytest.raises(ConfigError, match="Reward exact_match: tag is '<answer>'"):
        ExactMatch(tag="<answer>")
