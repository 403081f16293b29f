"""The number in a data set's answer: read right, or refused with its row; never another one."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from groupwise.data import load_problems
from groupwise.errors import DataError
from groupwise.lifecycle.inputs import check_rewards
from groupwise.rewards import ExactMatch, MathAccuracy, resolve_rewards
from groupwise.rewards.gold import gold_number
from groupwise.testing import score

RATIONALE = "She sold 48/2 = <<48/2=24>>24 clips in May, and 48+24 = 72 in all, 3 times as many.\n#### 72"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("42", 42),
        ("  42\n", 42),
        ("42.", 42),
        ("-3", -3),
        ("− 3", -3),
        ("+3", 3),
        (".5", 0.5),
        ("007", 7),
        ("1,234,567.5", 1234567.5),
        ("1.5e6", 1_500_000),
        ("2E-3", 0.002),
        ("3/4", 0.75),
        ("-3 / 4", -0.75),
        ("１２", 12),
        ("－１．５", -1.5),
        ("$18", 18),
        ("-$5.50", -5.5),
        ("$-5.50", -5.5),
        ("€1,000.25", 1000.25),
        ("18 $", 18),
        ("18 dollars", 18),
        ("50%", 50),
        ("50 percent", 50),
        (r"45\%", 45),
        ("72 clips", 72),
        ("12 slices of cake", 12),
        ("60 miles per hour", 60),
        ("60 km/h", 60),
        ("3/4 of the cake", 0.75),
        ("18 eggs a day", 18),
        (r"12 \text{ inches}^2", 12),
        ("12cm", 12),
        ("12 in", 12),
        ("18 eggs in all", 18),
        ("12 cm^2", 12),
        ("12 m²", 12),
        ("5 m", 5),
        ("90°", 90),
        (r"90^\circ", 90),
        (r"90^{\circ}", 90),
        (r"12\,\text{cm}", 12),
        (r"12 \text{ apples}", 12),
        (r"1{,}250", 1250),
        (r"1\,000\,000", 1_000_000),
        (r"\frac{1}{2}", 0.5),
        (r"-\frac{3}{4}", -0.75),
        (r"- \dfrac{3}{4}", -0.75),
        (r"\frac12", 0.5),
        (r"$\frac{3}{4}$", 0.75),
        (r"$42$", 42),
        (r"\(42\)", 42),
        (r"\[ 42 \]", 42),
        ("**42**", 42),
        ("$12$ cm", 12),
        ("x = 3", 3),
        ("x=-3", -3),
        (RATIONALE, 72),
        ("#### 1,234", 1234),
        ("The answer is 42.", 42),
        ("Answer: $18", 18),
        ("I have 3, then 4. Final answer: 7 apples.", 7),
        (r"We get 3, so $\boxed{7}$ apples.", 7),
        (r"Thus 24+48=\boxed{72}.", 72),
        (r"\boxed{\frac{1}{2}}", 0.5),
        (r"\boxed{90}^\circ", 90),
        ("<think>3 or 4</think><answer>4</answer>", 4),
        ("#### 7\n#### 7.0", 7),
        ("12345678901234567891", 12345678901234567891),
        (42, 42),
        (-1.5, -1.5),
        (Decimal("12.50"), 12.5),
        (Decimal("12"), 12),
        (Fraction(3, 4), 0.75),
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
        (np.array(3), 3),
        ([42], 42),
    ],
)
def test_an_answer_with_one_number_is_that_number(answer, expected):
    assert gold_number("number", answer) == expected


AMBIGUOUS = [
    r"3\frac{1}{2}", r"3\frac12", r"3 \frac{1}{2}", "3 1/2", "3½", "2^{10}", "10^{-3}", "10^6", "2**10", "2²",
    r"2\sqrt{3}", r"\sqrt{2}", r"2\pi", "2 pi", "2π", "5!", "3+2i", "2x", "5x^2", "3 x", "2ab", "5e", "3i", "10/0",
    r"\frac{3\pi}{4}", r"\frac{3}{-4}", r"--3", r"-\frac{-3}{4}",
    r"1.5 \times 10^6", "1.5 x 10^6", "5 * 3", "2 + 3", "5 + 3 = 8", "2x = 6", "3 - 2",
    "(3, 4)", "[1, 2]", "{1, 2}", "1, 2", "3,4", "3;4", "(5)", "1 000 000", "1.234,56", "12,34,567", "1'000", "1_000",
    "x=2 or x=3", "x = 2, y = 3", "-5 or 5", r"\pm 3", "±3", "3 or 4", "3 and 4", "1,000 to 2,000", "5-10", "5–10",
    "5 hours 30 minutes", "6 feet five inches", "5'11", "5 and a half", "an hour and 5 minutes", "5 pm", "12:45",
    "3:1", "2024-05-01", "1/2/2024", "5 May", "1.2.3", "192.168.0.1",
    "0x1F", "0b101", "1e400", "50% of 20", "50% of ten",
    "5 million", "$5 million", "5M", "5m", "5 K", "5 bn", "5 a", "5 of", "2k", "2 dozen", "3 thousand", "5 lakh",
    "5万", "3 hundred", "2 thirds",
    "~5", ">5", "<5", "≥ 5", r"\geq 5", r"\approx 5", "about 5", "at least 5", "5 or more", "not 5", "5+",
    "5 below zero", "0.333...", r"0.\overline{3}", "3.14…",
    r"\boxed{3} or \boxed{5}", "#### 3\n#### 4", "<answer>3</answer> <answer>4</answer>", r"\boxed{3} #### 4",
    "The answer is 3. No: the answer is 4.", "The answer is 3 or 4.", "The answer is 12 apples, 3 more than before",
    r"-\boxed{3}", r"10^{\boxed{3}}", r"\boxed{5}\sqrt{2}", r"\boxed{2}^{10}", r"\boxed{3\frac{1}{2}}", "#### 5 to 7",
    "She has 3 apples and buys 4 more, which makes 7",
    [1, 2], {"value": 3}, 10**400, "9" * 400, 2 + 1j,
]  # fmt: skip


@pytest.mark.parametrize("answer", AMBIGUOUS, ids=lambda answer: repr(answer)[:30])
def test_an_answer_that_is_more_than_one_number_is_refused(answer):
    with pytest.raises(DataError, match=r"Reward number: the data set's answer .* single number"):
        gold_number("number", answer)


@pytest.mark.parametrize("answer", ["unknown", "", "three", "VII", "½", "²", r"\infty", "nan", True])
def test_an_answer_without_a_number_is_refused(answer):
    with pytest.raises(DataError, match="has no number in it"):
        gold_number("number", answer)


def test_the_row_is_named_before_anything_is_loaded():
    problems = load_problems([{"prompt": "p", "answer": "12"}, {"prompt": "q", "answer": "2^{10}"}])
    with pytest.raises(DataError, match=r"data, row 2: Reward number: the data set's answer '2\^\{10\}'"):
        check_rewards(resolve_rewards(["number"]), [problems])


MISSING = [None, float("nan"), float("inf"), np.float32("nan"), np.nan, Decimal("NaN"), np.datetime64("NaT")]


@pytest.mark.parametrize("answer", MISSING, ids=repr)
@pytest.mark.parametrize("name", ["number", "choice", "exact_match", "fuzzy_match"])
def test_a_missing_answer_leaves_the_completion_unscored(name, answer):
    """nan, NaT and infinity are what a table writes where there is none."""
    assert score(name, ["nan", "A", "0"], answer=answer) == [None, None, None]
    rewards = resolve_rewards([name])
    check_rewards(rewards, [load_problems([{"prompt": "p", "answer": answer}])])


def test_a_missing_reference_or_missing_tests_leave_the_completion_unscored():
    assert score("rouge", ["nan"], summary=float("nan")) == [None]
    check_rewards(resolve_rewards(["code"]), [load_problems([{"prompt": "p", "tests": float("nan")}])])


def test_one_missing_answer_of_several_accepted_ones_is_left_out():
    assert ExactMatch()(["nan", "Rome"], answer=[["Rome", float("nan")], ["Rome", None]]) == [0, 1]
    assert ExactMatch()(["nan", "None"], answer=[[float("nan")], []]) == [None, None]


@pytest.mark.parametrize(
    ("given", "answer", "expected"),
    [(r"\boxed{3\frac{1}{2}}", "15.5", 0), (r"\boxed{\frac12}", "12", 0), (r"\boxed{\frac12}", "0.5", 1)],
)
def test_a_completion_with_a_mixed_fraction_is_not_read_as_another_number(given, answer, expected):
    assert score("number", given, answer=answer) == [expected]


def test_a_gsm8k_solution_is_read_by_the_same_rule(tmp_path):
    from groupwise.tasks import load_task

    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "a?", "answer": "#### 1,234"}\n{"question": "b?", "answer": "#### 3,4"}\n')
    with pytest.raises(DataError, match=r"Line 2 of .*rows.jsonl, column \"answer\": .*'#### 3,4' is no single number"):
        load_task({"name": "gsm8k", "path": str(rows), "subset": None, "eval_split": None})


CHOICES = ["2", "1", "C", "A"]


@pytest.mark.parametrize(
    ("answer", "choices", "letters"),
    [
        ("A", CHOICES, "ABCD"),  # the letter A, or the wording of D
        ("E", CHOICES, "ABCDE"),  # there is no fifth choice
        (4, CHOICES, "ABCDE"),
        (1, [1, 2, 3], "ABC"),  # the second choice, or the wording of the first
        ("six", ["one", "two", "three", "four", "five", "six"], "ABCDE"),  # beyond the letters
        ("twice", ["twice", "twice"], "ABC"),
        (1.5, CHOICES, "ABCD"),
        ("A or B", CHOICES, "ABCD"),
        ("AB", CHOICES, "ABCD"),
        (True, CHOICES, "ABCD"),
    ],
)
def test_a_choice_that_could_be_two_or_none_is_refused(answer, choices, letters):
    with pytest.raises(DataError, match="Reward choice: the data set's answer"):
        score({"name": "choice", "choices": "options", "letters": letters}, "A", answer=answer, options=[choices])


@pytest.mark.parametrize("answer", [1, 1.0, np.int64(1), np.float64(1), "B", "(b)", "1"])
def test_a_choice_by_number_letter_or_wording(answer):
    spec = {"name": "choice", "choices": "options", "letters": "ABCD"}
    assert score(spec, ["B", "A"], answer=answer, options=[CHOICES, CHOICES]) == [1, 0]


MISREAD_BY_MATH = [
    "5 million", r"5\text{ million}", r"2\text{ dozen}", "5 and a half", r"5 \text{ hours } 30 \text{ minutes}",
    "5 May",
    "3½", "5²", "5万", "10 000", "1 000 000", "1_000", "3 1/2", "0x1F", "2024-05-01", "1/2/2024", r"\boxed{5 million}",
]  # fmt: skip
READ_BY_MATH = [
    "3", "12 cm", r"12 \text{ cm}^2", r"10 \text{ square inches}", r"12 \text{ inches}^2",
    r"\frac{3}{4} \text{ of the cake}",
    r"3\frac{1}{2}", "2^{10}", "x=2 or x=3", "x = 2 and y = 3", r"x = 2 \text{ and } y = 3", "(3, 4)", r"\{1, 2\}",
    r"\text{June 20}", r"\text{Evelyn}", "Tuesday", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\frac 1 2", "72 clips",
    r"[0, \infty)", "3:4", "3+2i", "", RATIONALE, 3, None, float("nan"),
]  # fmt: skip


@pytest.mark.parametrize("answer", MISREAD_BY_MATH)
def test_math_refuses_an_answer_that_it_would_compare_as_another_value(answer):
    pytest.importorskip("math_verify")
    with pytest.raises(DataError, match=r"Reward math: the data set's answer .* as another value"):
        MathAccuracy().check_row({"answer": answer})


@pytest.mark.parametrize("answer", READ_BY_MATH, ids=repr)
def test_math_takes_formulas_words_and_numbers_with_units(answer):
    pytest.importorskip("math_verify")
    MathAccuracy().check_row({"answer": answer})
