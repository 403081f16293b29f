"""The reward for programs: extraction, every form of tests, scores and reasons."""

from __future__ import annotations

import json

import pytest

from groupwise.errors import ConfigError, DataError
from groupwise.rewards import resolve_rewards
from groupwise.rewards.sandbox.backend_choice import BackendChoice, use
from groupwise.rewards.sandbox.detect import find_bubblewrap
from groupwise.rewards.sandbox.tests import Asserts, Prints, read_tests
from groupwise.rewards.shipped.code import Code, last_python_block


@pytest.fixture(scope="module", autouse=True)
def chosen():
    is_here = find_bubblewrap().backend is not None
    use(BackendChoice("bubblewrap") if is_here else BackendChoice("none", run_untrusted_code_without_sandbox=True))
    yield
    use(BackendChoice())


@pytest.fixture(scope="module")
def code():
    reward = Code(limit_s=20, num_workers=1)
    yield reward
    reward.programs.close()


@pytest.fixture(scope="module")
def share():
    reward = Code(score="share", limit_s=20, num_workers=1)
    yield reward
    reward.programs.close()


def fenced(program):
    return f"Here it is.\n```python\n{program}\n```\nThat is all."


def scored(reward, program, tests, **columns):
    whys = []
    columns = {name: [value] for name, value in columns.items()}
    (value,) = reward([fenced(program)], log_why=whys.extend, tests=[tests], **columns)
    return value, whys[0]


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```py\nx = 1\n```\nor\n```Python\nx = 2\n```", "x = 2\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\nwhich prints\n```text\n1\n```", "x = 1\n"),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
        ("```python title=a.py\nx = '```'\n```", "x = '```'\n"),
        ("```python\nx = 1", None),
        ("x = 1", None),
        ("```js\nx = 1\n```", None),
    ],
)
def test_the_last_closed_python_block_is_taken(text, block):
    assert last_python_block(text) == block


PRINTS = [{"input": "3\n", "output": "6\n"}, {"input": "5", "output": "10"}]


def test_input_and_output(code, share):
    assert scored(code, "print(2 * int(input()))", PRINTS) == (1.0, "2 of 2 tests passed")
    assert scored(code, "print(6)", PRINTS) == (0.0, "1 of 2 tests passed; test 2: printed '6\\n'")
    assert scored(share, "print(6)", PRINTS)[0] == 0.5
    pairs = {"inputs": ["3", "5"], "outputs": ["6", "10"]}
    assert scored(code, "print(2 * int(input()))", json.dumps(pairs))[0] == 1


@pytest.mark.parametrize(
    ("printed", "wanted", "is_right"),
    [
        ("6 \n7\n\n", "6\n7", True),
        ("6\n7", "6\n7\n", True),
        ("6\n\n7", "6\n7", False),
        (" 6", "6", False),
        ("", "", True),
    ],
)
def test_white_space_at_the_end_of_lines_does_not_count(code, printed, wanted, is_right):
    program = f"import sys\nsys.stdout.write({printed!r})"
    assert scored(code, program, [{"input": "", "output": wanted}])[0] == is_right


def test_a_program_that_prints_right_and_then_fails_is_wrong(code):
    reward, why = scored(code, "print(6)\n1 / 0", [{"input": "", "output": "6"}])
    assert (reward, why) == (0.0, "0 of 1 tests passed; test 1: raised ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    "reads",
    ["input(), input(), input()", "*sys.stdin", "*sys.stdin.read().split()", "*open(0)", "*open('/dev/stdin')"],
)
def test_the_main_part_runs_and_reads_standard_input_in_every_way(code, reads):
    program = f"import sys\nif __name__ == '__main__':\n    print(*(line.strip() for line in ({reads},)))"
    assert scored(code, program, [{"input": "1\n2\n3\n", "output": "1 2 3"}])[0] == 1


ASSERTS = ["assert double(2) == 4", "assert double('a') == 'aa'", "assert double([1]) == [1, 1]"]


def test_assertions(code, share):
    assert scored(code, "def double(x): return 2 * x", ASSERTS) == (1.0, "3 of 3 tests passed")
    assert scored(code, "def double(x): return x + x", "\n".join(ASSERTS)) == (1.0, "1 of 1 tests passed")
    wrong = "def double(x): return 2 * int(x)"
    assert scored(code, wrong, ASSERTS)[0] == 0
    reward, why = scored(share, wrong, ASSERTS)
    assert reward == pytest.approx(1 / 3)
    assert why == "1 of 3 tests passed; test 2: ValueError: invalid literal for int() with base 10: 'a'"


CHECK = """
METADATA = {}

def check(candidate):
    assert candidate([3, 1, 2]) == [1, 2, 3]
    assert candidate([]) == []
    for n in range(5):
        assert candidate(list(range(n, 0, -1))) == sorted(range(1, n + 1))
"""


@pytest.mark.parametrize(("program", "reward"), [("return sorted(x)", 1), ("return x", 0), ("x.sort()", 0)])
def test_humaneval(program, reward):
    humaneval = Code(entry_point="entry_point", limit_s=20, num_workers=1)
    text = f"def ordered(x):\n    {program}"
    assert scored(humaneval, text, CHECK, entry_point="ordered")[0] == reward
    humaneval.programs.close()


def test_calls_by_name(code):
    tests = {"fn_name": "pair", "inputs": [[1, "a"], [2, "b"]], "outputs": [["a", 1], [["b", 2]]]}
    assert scored(code, "def pair(n, s): return s, n", tests)[0] == 1
    assert scored(code, "def pair(n, s): return n, s", tests)[0] == 0
    tests = {"fn_name": "Solution().twice", "inputs": [[4]], "outputs": [8]}
    assert scored(code, "class Solution:\n    def twice(self, n): return 2 * n", tests)[0] == 1


def test_values_come_back_as_they_are(code):
    values = [
        *("None", "True", "-1", "2 ** 70", "0.1", "float('inf')", "'\\ud800\\n'", "b'\\x00'", "bytearray(b'a')"),
        *("(1, (2,))", "{1: {'a': (1,)}}", "{(1, 2)}", "frozenset('ab')", "[[], {}]", "1j", "set()"),
    ]
    tests = [f"value = same({value})\nassert value == {value} and type(value) is type({value})" for value in values]
    assert scored(code, "def same(x): return x", tests) == (1.0, f"{len(tests)} of {len(tests)} tests passed")


def test_more_kinds_of_values_and_errors(code):
    program = """
import collections, decimal, fractions
def squares(n): return (k * k for k in range(n))
def counted(x): return collections.Counter(x)
def third(): return fractions.Fraction(1, 3)
def tenth(): return decimal.Decimal("0.1")
def refuse(x): raise ValueError(f"no {x}")
def refuse_oddly():
    class OddError(Exception): pass
    raise OddError("odd")
class Box:
    def __init__(self, x): self.x = x
    def get(self): return self.x
    def put(self, x): self.x = x
async def later(): return 3
"""
    tests = [
        "assert list(squares(3)) == [0, 1, 4]",
        "assert counted('aab') == {'a': 2, 'b': 1}",
        "import fractions\nassert third() == fractions.Fraction(1, 3)",
        "import decimal\nassert tenth() == decimal.Decimal('0.1')",
        "try:\n    refuse(3)\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'no 3'",
        "try:\n    refuse_oddly()\n    assert False\nexcept Exception as error:\n    assert 'OddError' in str(error)",
        "box = Box(3)\nbox.put(4)\nassert box.get() == 4",
        "assert math.floor(tenth()) == 0",
        "assert abs(third() - 1 / 3) < 1e-9",
    ]
    assert scored(code, program, tests) == (1.0, "9 of 9 tests passed")


def test_libraries_that_are_installed_can_be_imported(code):
    assert scored(code, "import numpy\nprint(numpy.arange(4).sum())", [{"input": "", "output": "6"}])[0] == 1


def test_a_test_that_takes_too_long_fails_the_rest():
    quick = Code(limit_s=0.3, score="share", num_workers=1)
    program = "import time\ndef f(x):\n    while x: time.sleep(1)\n    return 1"
    reward, why = scored(quick, program, ["assert f(0) == 1", "assert f(1) == 1", "assert f(0) == 1"])
    assert reward == pytest.approx(1 / 3)
    assert why == "1 of 3 tests passed; test 2: timed out after 0.3 s"
    reward, why = scored(quick, "while True: pass", PRINTS)
    assert (reward, why) == (0, "0 of 2 tests passed; test 1: timed out after 0.3 s")
    quick.programs.close()


def test_what_is_unscored_and_what_gets_nothing(code):
    whys = []
    rewards = code(["no block", fenced("print(6)")], log_why=whys.extend, tests=[PRINTS, None])
    assert rewards == [0.0, None]
    assert whys == ["no fenced Python block", "no tests in the data"]


def test_completions_are_scored_at_the_same_time_and_in_order():
    several = Code(num_workers=3, limit_s=20)
    texts = [fenced(f"print({number})") for number in range(5)]
    assert several(texts, tests=[[{"input": "", "output": "3"}]] * 5) == [0, 0, 0, 1, 0]
    several.programs.close()


@pytest.mark.parametrize(
    "tests", [3, [], "", "  ", [3], {"inputs": ["1"]}, {"inputs": ["1"], "outputs": []}, [{"input": "1"}], "[]"]
)
def test_tests_in_no_known_form_are_named(tests):
    with pytest.raises(DataError, match=r"Reward code: "):
        read_tests(tests)


def test_the_forms_of_tests():
    assert read_tests("assert f() == 1", "f") == [Asserts("assert f() == 1", "f")]
    assert read_tests("[f() for _ in [1]]") == [Asserts("[f() for _ in [1]]")]
    assert read_tests('[{"input": "1", "output": 2}]') == [Prints("1", "2")]
    assert read_tests({"inputs": [["1", "2"]], "outputs": ["3"]}) == [Prints("1\n2", "3")]


@pytest.mark.parametrize(
    "parameters", [{"score": "some"}, {"limit_s": 0}, {"memory_mb": 0}, {"num_workers": 0}, {"column": "a b"}]
)
def test_wrong_parameters_are_named(parameters):
    with pytest.raises(ConfigError, match=f"Reward code.*{next(iter(parameters))}"):
        Code(**parameters)


def test_it_is_a_shipped_reward_that_is_loaded_early():
    (function,) = resolve_rewards([{"name": "code", "column": "unit_tests", "limit_s": 2}])
    assert function.required == {"completions", "unit_tests"}
    assert function.load is not None


def test_without_a_sandbox_it_is_refused_before_anything_is_sampled():
    use(BackendChoice("none"))
    (function,) = resolve_rewards(["code"])
    try:
        with pytest.raises(ConfigError, match="run_untrusted_code_without_sandbox"):
            function.load()
    finally:
        use(BackendChoice())


@pytest.mark.slow
def test_a_run_records_what_its_rewards_ran_in(tmp_path):
    from api_helpers import trainer
    from histories import of_steps

    rows = [{"prompt": f"say {word}", "tests": "assert f() == 1"} for word in ("one", "two", "three")]
    run = trainer(
        tmp_path / "run", rewards=[{"name": "code"}], data=rows, sandbox=used(), run_untrusted_code_without_sandbox=True
    )
    run.train()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["sandbox"] == [used()]
    assert of_steps(run.state.log_history)[-1]["rewards/code/mean"] == 0


def used():
    return "bubblewrap" if find_bubblewrap().backend is not None else "none"
