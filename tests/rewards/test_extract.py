"""Where the answer of a completion is found: texts of the kind small models write."""

from __future__ import annotations

import time

import pytest

from groupwise.rewards.extract import after_hashes, after_phrase, answer_text, boxed, find_number, numbers, tagged


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 42.", 42),
        ("#### 1,234", 1234),
        (r"Thus, the value is $\boxed{\frac{3}{4}}$.", 0.75),
        (r"$\boxed{12}$ cm", 12),
        (r"\boxed{7} ... wait, I made a mistake. \boxed{9}", 9),
        (r"\boxed{12 \text{ apples}}", 12),
        (r"\boxed{1{,}250}", 1250),
        ("<answer>5 + 3 = 8</answer>", 8),
        ("<answer>\n42\n</answer> Hope this helps! Call 555 now.", 42),
        ("<answer>12 apples</answer>", 12),
        ("<answer>1 2 3 42</answer>", None),
        ("<answer>either 3 or 5</answer>", None),
        ("<answer>4 and 4</answer>", 4),
        ("<answer></answer> 7", None),
        ("It costs -$5.50", -5.5),
        ("€1,000.25", 1000.25),
        ("About 42% of them", 42),
        ("x=−7", -7),
        ("5-3", 3),
        ("We get 3, then 4. Final Answer: **18** apples", 18),
        ("answer: $18", 18),
        ("The answer is 12 apples, 3 more than before", 12),
        ("The answer is 5 + 7 = 12", 12),
        ("The answer is easy to find. 5 times 8 is 40", 40),
        ("The answer is 3. No: the answer is 4.5.", 4.5),
        ("The result of 5 and 3 is 8. I hope this helps!", 8),
        ("1. Add\n2. Subtract\nSo 15.", 15),
        ("12,345,678 people", 12345678),
        ("1/2", 0.5),
        ("1.5e3", 1500),
        ("10/0", None),
        ("I do not know.", None),
        ("", None),
        ("9" * 400, None),
        ("12345678901234567891", 12345678901234567891),
    ],
)
def test_the_number_a_completion_answers_with(text, expected):
    assert find_number(text) == expected


@pytest.mark.parametrize(
    ("place", "text", "expected"),
    [
        ("tag", "42", None),
        ("tag", "<answer>41</answer> <answer>42</answer> 43", 42),
        ("boxed", "<answer>41</answer>", None),
        ("hashes", "She sold 48/2 = 24.\n#### 72", 72),
        ("phrase", "so it is 9", None),
        ("phrase", "The answer is unknown. 9", None),
        ("whole", "<answer>41</answer> 42", 42),
    ],
)
def test_a_named_place_is_the_only_one_looked_at(place, text, expected):
    assert find_number(text, place) == expected


def test_every_number_in_order():
    assert list(numbers("From 3 to -4.5, then 1,000 and 2/4; v2 costs $7")) == [3, -4.5, 1000, 0.5, 2, 7]


def test_the_places_themselves():
    assert tagged("<a>1</a><a>2</a>", "a") == "2"
    assert tagged("<a>1", "a") is None
    assert boxed(r"\boxed{\frac{1}{2}} and \boxed{unclosed") == r"\frac{1}{2}"
    assert after_hashes("#### 3\n#### 4 \nbye") == "4"
    assert after_phrase("**Answer:** Paris. It is nice there.") == "Paris"
    assert after_phrase("Finding the answer took 3 days") is None
    assert answer_text("no place at all") is None
    assert answer_text("no place at all", "whole") == "no place at all"


@pytest.mark.parametrize("noise", [r"\boxed{", "<answer>", "1,", "answer is ", "9", "```", "$", r"\frac{"])
def test_noise_is_read_in_no_time(noise):
    start = time.process_time()
    find_number(noise * (20_000 // len(noise)))
    assert time.process_time() - start < 0.5
