"""Mathematical accuracy, through a real worker: answers as models write them, and texts that would hang a parser."""

from __future__ import annotations

import sys
import time

import pytest

from groupwise.errors import ConfigError
from groupwise.rewards import MathAccuracy, RewardScorer, resolve_rewards

from .groups import CHAT, make_group

SOLUTION = "She sold 48/2 = <<48/2=24>>24 in May, 48+24 = 72 in all.\n#### 72"

CASES = [
    # numbers, boxed and plain
    ("Thus the answer is $\\boxed{72}$.", SOLUTION, 1),
    ("48/2 = 24, and 48 + 24 = 72", SOLUTION, 1),
    ("#### 72", SOLUTION, 1),
    ("<think>24 + 48</think><answer>72</answer>", SOLUTION, 1),
    ("<answer>48 + 24 = 72</answer>", SOLUTION, 1),
    ("<answer>$72</answer>", SOLUTION, 1),
    ("<answer>72 clips</answer>", SOLUTION, 1),
    ("<answer>71 or 72 clips</answer>", SOLUTION, 0),
    ("The answer is $\\boxed{24}$.", SOLUTION, 0),
    ("\\boxed{72} no wait, \\boxed{24}", SOLUTION, 0),
    ("\\boxed{24}, I mean \\boxed{72}", SOLUTION, 1),
    ("\\boxed{71, 72, 73}", SOLUTION, 0),
    ("<answer>71 72 73</answer>", SOLUTION, 0),
    ("I do not know.", SOLUTION, 0),
    ("", SOLUTION, 0),
    ("1,234", "1234", 1),
    ("It is 0.5.", "\\frac{1}{2}", 1),
    ("\\boxed{\\dfrac{2}{4}}", "\\frac{1}{2}", 1),
    ("It is 0.333.", "\\frac{1}{3}", 0),
    ("\\boxed{50\\%}", "0.5", 1),
    ("\\boxed{1\\frac{1}{2}}", "1.5", 1),
    ("\\boxed{-3}", "3", 0),
    ("\\boxed{3}", 3, 1),
    # units
    ("\\boxed{12\\,\\text{cm}}", "12", 1),
    ("\\boxed{12}", "12 \\text{ cm}", 1),
    ("<answer>12 cm</answer>", "12 \\text{ cm}", 1),
    ("\\boxed{90^\\circ}", "90", 1),
    # formulas
    ("\\boxed{(x+1)^2}", "x^2 + 2x + 1", 1),
    ("\\boxed{x^2 + 1}", "x^2 + 2x + 1", 0),
    ("\\boxed{2\\sqrt{2}}", "\\sqrt{8}", 1),
    ("So $x = 3$.", "3", 1),
    ("\\boxed{x = 3}", "x=3", 1),
    # sets, intervals, tuples
    ("\\boxed{\\{3, 1, 2\\}}", "\\{1,2,3\\}", 1),
    ("\\boxed{\\{1, 2\\}}", "\\{1,2,3\\}", 0),
    ("\\boxed{[0, 1)}", "[0,1)", 1),
    ("\\boxed{(0, 1)}", "[0,1)", 0),
    ("\\boxed{x \\in (-\\infty, 3]}", "(-\\infty, 3]", 1),
    ("The answer is (3, 4).", "(3,4)", 1),
    ("The answer is (4, 3).", "(3,4)", 0),
    ("\\boxed{\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", 1),
    # unscored
    ("72", None, None),
    ("72", "", None),
    # nothing that is evaluated
    ("\\boxed{__import__('os').system('touch hacked')}", "3", 0),
    ("<answer>exec('1/0')</answer>", "3", 0),
]


@pytest.fixture(scope="module")
def scorer():
    return RewardScorer(resolve_rewards(["math"]))


@pytest.fixture(scope="module")
def scored(scorer):
    """All cases in one call: two workers read them."""
    groups = [make_group("p", [text], draw, answer=answer) for draw, (text, answer, _) in enumerate(CASES)]
    return [(g.reward[0], g.extras["math/why"][0]) for g in scorer.score(groups).groups]


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{t[:30]!r} for {str(a)[-20:]!r}" for t, a, _ in CASES])
def test_the_answer_is_compared_as_mathematics(scored, number):
    reward, why = scored[number]
    assert reward == CASES[number][2], why


def test_chats_and_named_places(scorer):
    group = make_group(CHAT, ["\\boxed{3}", "3"], answer="3")
    assert scorer.score([group]).groups[0].reward == (1, 1)
    boxed = RewardScorer(resolve_rewards([{"name": "math", "place": "boxed", "column": "gold"}]))
    group = make_group("p", ["\\boxed{3}", "3", "<answer>3</answer>"], gold="3")
    assert boxed.score([group]).groups[0].reward == (1, 0, 0)


@pytest.mark.slow
def test_an_answer_that_would_never_end_is_wrong_and_the_next_one_is_scored():
    scorer = RewardScorer(resolve_rewards([{"name": "math", "limit_s": 1.5}]))
    start = time.monotonic()
    group = make_group("p", ["\\boxed{9^{9^{9^{9}}}}", "\\boxed{3}"], answer="3")
    scored = scorer.score([group]).groups[0]
    assert scored.reward == (0, 1), scored.extras
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"place": "box"}, 'Did you mean "boxed"'),
        ({"decimals": -1}, "decimals is -1"),
        ({"limit_s": 0}, "limit_s is 0"),
        ({"column": "a b"}, "column is 'a b'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MathAccuracy(**settings)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ConfigError, match=r'needs the package "math_verify".*groupwise\[math\]'):
        MathAccuracy()
