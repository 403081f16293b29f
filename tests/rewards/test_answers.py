"""number, choice, exact_match and fuzzy_match against completions as small models write them."""

from __future__ import annotations

import pytest

from groupwise.errors import ConfigError, DataError, RewardError
from groupwise.rewards import RewardScorer, resolve_rewards

from .groups import CHAT, make_group

NATALIA = (
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72"
)


def score(spec, text, prompt="p", **columns):
    group = RewardScorer(resolve_rewards([spec])).score([make_group(prompt, [text], **columns)]).groups[0]
    return group.reward[0]


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("Natalia sold 24 clips in May, so 48 + 24 = 72 clips altogether.", NATALIA, 1),
        ("In April 48, in May 24. The answer is 72 clips.", NATALIA, 1),
        ("48 friends bought clips, and half as many is 24.", NATALIA, 0),
        ("72 clips in April and May, which are 2 months.", NATALIA, 0),
        ("Step 1: 48/2=24\nStep 2: 48+24=72\n\n#### 72", NATALIA, 1),
        (r"\[ 48 + 24 = 72 \] Hence $\boxed{72}$.", NATALIA, 1),
        ("<think>48+24=72</think><answer>$72.00</answer>", NATALIA, 1),
        ("<think>48+24=72</think><answer>96</answer>", NATALIA, 0),
        ("<answer>70 71 72</answer>", NATALIA, 0),
        ("I'm sorry, I can't help with that.", NATALIA, 0),
        ("", NATALIA, 0),
        ("It is 1,000,000.", 1000000, 1),
        ("It is 0.333333333", 1 / 3, 1),
        ("It is 1/3", "0.3333333333", 1),
        ("It is 0.33", 1 / 3, 0),
        ("The answer is -3", "3", 0),
        ("12345678901234567890", "12345678901234567891", 0),
        ("72", None, None),
    ],
)
@pytest.mark.parametrize("prompt", ["p", CHAT])
def test_number(text, answer, expected, prompt):
    assert score("number", text, prompt, answer=answer) == expected


@pytest.mark.parametrize(
    ("settings", "text", "answer", "expected"),
    [
        ({"tolerance": 0.5}, "about 3.4", 3, 1),
        ({"tolerance": 0.5}, "about 3.6", 3, 0),
        ({"tolerance": 0.5}, "about 3.5", 3, 1),
        ({"relative": 0.01}, "990", 1000, 1),
        ({"relative": 0.01}, "989", 1000, 0),
        ({"relative": 0.01, "tolerance": 0}, "0.0001", 0, 0),
        ({"place": "tag"}, "the answer is 3", 3, 0),
        ({"place": "tag", "tag": "result"}, "<result>3</result>", 3, 1),
        ({"column": "gold"}, "3", 3, 1),
    ],
)
def test_number_settings(settings, text, answer, expected):
    columns = {settings.get("column", "answer"): answer}
    assert score({"name": "number", **settings}, text, **columns) == expected


def test_a_number_that_the_data_lacks_is_told():
    with pytest.raises(DataError, match="the data set's answer 'unknown' has no number in it"):
        score("number", "3", answer="unknown")
    with pytest.raises(RewardError, match=r'"number" takes "answer".* Did you mean "answers"'):
        RewardScorer(resolve_rewards(["number"]), ["answers"])


CHOICES = ["Mercury", "Venus", "Earth", "The Sun"]


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("The answer is B.", "B", 1),
        ("The correct answer is (B) Venus.", "B", 1),
        ("Answer: B", "b", 1),
        ("**Answer:** C", "B", 0),
        ("B", "B", 1),
        ("B) Venus", "B", 1),
        ("B. Venus is the hottest planet.", "B", 1),
        ("(B)", 1, 1),
        ("I think it could be (A), but Venus is hotter, so (B)", "B", 1),
        ("<answer>B</answer>", "B", 1),
        ("<answer>b</answer>", "B", 1),
        ("<answer>(B) Venus</answer>", "B", 1),
        ("<answer>A B C D</answer>", "B", 0),
        ("<answer>A or B</answer>", "B", 0),
        ("<answer></answer>", "B", 0),
        (r"The letter is $\boxed{\text{B}}$", "B", 1),
        (r"$\boxed{B}$", "B", 1),
        ("The answer is a hot planet, B", "B", 1),
        ("A planet near the sun is hot. I would say Venus.", "A", 0),
        ("Because it has a thick atmosphere.", "B", 0),
        ("Let's see.\n\nA: no\nB: yes", "B", 1),
        ("Option D is right", "D", 1),
        ("", "B", 0),
        ("B", None, None),
    ],
)
def test_choice(text, answer, expected):
    assert score("choice", text, answer=answer) == expected


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("The answer is Venus.", 1, 1),
        ("<answer>venus</answer>", "Venus", 1),
        ("<answer>Earth</answer>", "B", 0),
        ("<answer>the sun.</answer>", "D", 1),
        ("<answer>Pluto</answer>", "D", 0),
    ],
)
def test_choice_reads_the_wording_too(text, answer, expected):
    spec = {"name": "choice", "choices": "options", "letters": "ABCD"}
    assert score(spec, text, answer=answer, options=CHOICES) == expected


def test_choice_refuses_what_is_no_letter():
    with pytest.raises(DataError, match="the data set's answer 'Z' is none of the letters ABCDE"):
        score("choice", "A", answer="Z")
    with pytest.raises(DataError, match="the data set's answer 7 is none"):
        score("choice", "A", answer=7)
    for letters in ("A", "AAB", "abc", 3):
        with pytest.raises(ConfigError, match="Reward choice: letters is"):
            resolve_rewards([{"name": "choice", "letters": letters}])


@pytest.mark.parametrize(
    ("settings", "text", "answer", "expected"),
    [
        ({}, "Paris", ["Paris", "City of Paris"], 1),
        ({}, "City of Paris", ["Paris", "City of Paris"], 1),
        ({}, "London", ["Paris", "City of Paris"], 0),
        ({"ignore_punctuation": True, "ignore_case": True}, '"Paris."', "paris", 1),
        ({"ignore_punctuation": True}, "Pa-ris!", "Paris", 1),
        ({}, "Paris.", "Paris", 0),
    ],
)
def test_exact_match_takes_several_answers_and_drops_punctuation(settings, text, answer, expected):
    assert score({"name": "exact_match", **settings}, text, answer=answer) == expected


@pytest.mark.parametrize(
    ("settings", "text", "answer", "low", "high"),
    [
        ({}, "The Eiffel Tower", "eiffel tower!", 1, 1),
        ({}, "It is the Eiffel Tower in Paris", "Eiffel Tower", 0.4, 0.6),
        ({}, "Big Ben", "Eiffel Tower", 0, 0),
        ({}, "tower tower tower", "tower", 0.5, 0.5),
        ({}, "", "tower", 0, 0),
        ({}, "Rome", ["Paris", "Roma", "Rome, Italy"], 0.6, 0.7),
        ({"measure": "characters"}, "Dostoyevsky", "Dostoevsky", 0.9, 0.99),
        ({"measure": "characters", "threshold": 0.9}, "Dostoyevsky", "Dostoevsky", 1, 1),
        ({"threshold": 0.5}, "Big Ben", "Big Ben", 1, 1),
        ({"threshold": 0.5}, "Big Bang Theory Show", "Big Ben", 0, 0),
        ({"tag": "answer"}, "hm <answer>the tower</answer>", "tower", 1, 1),
        ({"tag": "answer"}, "tower", "tower", 0, 0),
    ],
)
def test_fuzzy_match(settings, text, answer, low, high):
    assert low <= score({"name": "fuzzy_match", **settings}, text, answer=answer) <= high


def test_fuzzy_match_without_an_answer_is_unscored():
    assert score("fuzzy_match", "tower", answer=None) is None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "number", "place": "tags"}, "place is 'tags'.*Did you mean \"tag\""),
        ({"name": "number", "tolerance": -1}, "tolerance is -1; give a number, at least 0"),
        ({"name": "number", "relative": "1%"}, "relative is '1%'"),
        ({"name": "number", "column": "a b"}, "column is 'a b'"),
        ({"name": "fuzzy_match", "measure": "word"}, 'Did you mean "words"'),
        ({"name": "fuzzy_match", "threshold": 2}, "threshold is 2; give a number, at least 0, at most 1"),
        ({"name": "fuzzy_match", "tag": "<a>"}, "tag is '<a>'"),
        ({"name": "choice", "choices": "in"}, "column is 'in'"),
    ],
)
def test_settings_out_of_range_are_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        resolve_rewards([spec])
