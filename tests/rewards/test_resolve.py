"""Where reward functions may come from, and what a wrong one is answered with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from groupwise.errors import ConfigError
from groupwise.rewards import Length, RewardFunction, resolve_rewards

SOURCE = """
import helper_of_rewards

def reward_len(completions, **kwargs):
    return [helper_of_rewards.SIGN * len(completion) for completion in completions]

class Scorer:
    def __call__(self, completions):
        return [1.0] * len(completions)

scorer = Scorer()
LIMIT = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe's folder with a reward file and its helper; what it adds to the import state is taken back."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "mine.py").write_text(SOURCE)
    (tmp_path / "rewards" / "helper_of_rewards.py").write_text("SIGN = -1\n")
    yield tmp_path
    for name in [n for n in sys.modules if "_groupwise_rewards_" in n or "_of_rewards" in n]:
        del sys.modules[name]


def one(spec: object, folder: Path | None = None) -> RewardFunction:
    (function,) = resolve_rewards([spec], folder=folder)  # type: ignore[list-item]
    return function


@pytest.mark.parametrize("spec", ["mine_of_rewards.py:score", "mine_of_rewards:score", "pack_of_rewards.mine:score"])
def test_files_and_modules_of_one_name_belong_to_their_folders(spec: str, folder: Path) -> None:
    for value in (1, 2):
        package = folder / str(value) / "pack_of_rewards"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package.parent / "beside_of_rewards.py").write_text(f"VALUE = {value}\n")
        text = "from beside_of_rewards import VALUE\ndef score(completions):\n    return [VALUE] * len(completions)\n"
        (package / "mine.py").write_text(text)
        (package.parent / "mine_of_rewards.py").write_text(text)
    functions = [one(spec, folder / str(value)) for value in (1, 2, 1)]
    assert [function.call(completions=["a"]) for function in functions] == [[1], [2], [1]]


def test_a_file_that_has_changed_is_read_again(folder: Path) -> None:
    file = folder / "mine_of_rewards.py"
    functions = []
    for value in (1, 2):
        file.write_text(f"def score(completions):\n    return [{value}] * len(completions)\n")
        os.utime(file, (value, value))
        functions.append(one("mine_of_rewards.py:score", folder))
    assert [function.call(completions=["a"]) for function in functions] == [[1], [2]]
    assert one("mine_of_rewards.py:score", folder).call is functions[1].call


def test_a_file_is_found_from_the_recipe_folder_and_may_import_its_neighbours(folder):
    function = one("rewards/mine.py:reward_len", folder)
    assert (function.name, function.call(completions=["ab", ""])) == ("reward_len", [-2, 0])


def test_an_absolute_path_and_an_object_in_the_file_work_too(folder):
    assert one(f"{folder}/rewards/mine.py:scorer").call(completions=["a"]) == [1.0]
    assert one(f"{folder}/rewards/mine.py:scorer").name == "Scorer"


def test_two_functions_of_one_file_share_the_module_and_an_edited_file_is_read_again(folder):
    file = folder / "state_of_rewards.py"
    file.write_text("seen = []\ndef f(completions): return seen\ndef g(completions): return seen\n")
    f, g = resolve_rewards(["state_of_rewards.py:f", "state_of_rewards.py:g"], folder=folder)
    assert f.call(completions=[]) is g.call(completions=[])
    file.write_text("def f(completions): return 'edited'\n")
    assert one("state_of_rewards.py:f", folder).call(completions=[]) == "edited"


def test_a_module_is_imported_from_the_recipe_folder_or_anywhere(folder):
    (folder / "module_of_rewards.py").write_text("def f(completions): return [2.0]\n")
    assert one("module_of_rewards:f", folder).call(completions=["a"]) == [2.0]
    assert one("statistics:mean").name == "mean"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rewards/mime.py:reward_len", 'no file .*mime.py .*Did you mean "mine.py"'),
        ("nowhere/mine.py:reward_len", "no file .*nowhere/mine.py"),
        ("rewards/mine.py", 'names a file only; name the function in it: "rewards/mine.py:function"'),
        ("rewards/mine.py:reward_lem", 'no function "reward_lem". It has: reward_len.*Did you mean "reward_len"'),
        ("rewards/mine.py:Scorer", "is a class"),
        ("rewards/mine.py:LIMIT", "LIMIT is 3; a reward is a function"),
        ("no_such_module:f", r"no module no_such_module .* give its path: no_such_module.py:f"),
        ("statistics:meen", 'no function "meen".*Did you mean'),
    ],
)
def test_a_missing_file_or_function_is_named_with_the_nearest(folder, spec, message):
    with pytest.raises(ConfigError, match=message):
        one(spec, folder)


@pytest.mark.parametrize("spec", ["broken_of_rewards.py:f", "broken_of_rewards:f"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ny = 1 / 0\n", "ZeroDivisionError: division by zero .*broken_of_rewards.py, line 2"),
        ("\n\nimport no_such_package\n", "ModuleNotFoundError: .*no_such_package.*broken_of_rewards.py, line 3"),
        ("import json\njson.loads('')\n", "JSONDecodeError: .*broken_of_rewards.py, line 2"),
        ("x = 1\ndef f(:\n", "SyntaxError: .*broken_of_rewards.py, line 2"),
    ],
)
def test_an_error_inside_the_users_file_shows_its_line(folder, spec, source, message):
    (folder / "broken_of_rewards.py").write_text(source)
    with pytest.raises(ConfigError, match=message) as caught:
        one(spec, folder)
    assert caught.value.__cause__ is not None


def test_a_shipped_name_takes_its_parameters_from_the_mapping():
    function = one({"name": "length", "target": 20, "unit": "words", "weight": 0.5})
    assert (function.call, function.weight, function.name) == (Length(20, "words"), 0.5, "length")
    assert one("length").call == Length()


def test_a_function_in_a_mapping_has_a_weight_and_may_have_a_name(folder):
    function = one({"function": "rewards/mine.py:scorer", "weight": 2, "name": "mine"}, folder)
    assert (function.name, function.weight) == ("mine", 2)
    assert one({"function": Length(), "name": "size"}).name == "size"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "length", "traget": 3}, 'no setting "traget"; it has target, unit.*Did you mean "target"'),
        ({"name": "length", "wieght": 3}, 'Did you mean "weight"'),
        ({"name": "lenght"}, 'There is no reward "lenght".*Did you mean "length"'),
        ({"function": Length(), "wait": 1}, 'no setting "wait"'),
        ({"model": "a/b", "batchsize": 1}, 'no setting "batchsize".*Did you mean "batch_size"'),
        ({"model": "a/b", "batch_size": 0}, "batch_size of a reward model is 0"),
        ({"weight": 1}, "neither name .* nor function nor model"),
        ({"name": "length", "weight": "1"}, "weight of reward \"length\" is '1'"),
        ({"name": "length", "weight": float("inf")}, "finite"),
        ("lenght", 'no reward "lenght". Did you mean "length".*length, format, exact_match'),
        (Length, "A reward was given as <class"),
        (3, "A reward was given as 3"),
    ],
)
def test_a_spec_that_is_none_is_answered_with_what_would_be(spec, message):
    with pytest.raises(ConfigError, match=message):
        one(spec)


def test_weights_are_one_each_and_given_once():
    assert [f.weight for f in resolve_rewards(["length", "format"], weights=[0.5, 2])] == [0.5, 2]
    with pytest.raises(ConfigError, match=r"3 numbers for 2 reward functions \(length, format\)"):
        resolve_rewards(["length", "format"], weights=[1, 2, 3])
    with pytest.raises(ConfigError, match="given twice"):
        resolve_rewards([{"name": "length", "weight": 1}], weights=[1])


def test_processing_classes_are_one_each():
    with pytest.raises(ConfigError, match="2 entries for 1 reward functions"):
        resolve_rewards(["length"], processing_classes=[None, None])


def test_a_single_spec_needs_no_list():
    assert [f.name for f in resolve_rewards("format")] == ["format"]


def test_rewards_without_a_model_load_no_torch():
    code = (
        "import sys; from groupwise.rewards import RewardScorer, resolve_rewards; "
        "RewardScorer(resolve_rewards(['length', lambda completions: []])); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
