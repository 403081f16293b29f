"""What a check measured is the plan of the same recipe, and of no other."""

from __future__ import annotations

import pytest

from groupwise.runs.check_plan import NAME, read_check_plan, write_check_plan
from groupwise.runs.folder import RunFolder, make_check

RECIPE = {"learning_rate": 1e-4, "output_dir": "a", "hub_token": "hf_abcdefghijklmnopqrstuvwxyz"}
NUMBERS = {"step_s": 2.5, "memory_bytes": 1000, "eval_s": None}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    make_check(tmp_path)
    found = RunFolder(tmp_path)
    write_check_plan(found, RECIPE, NUMBERS)
    return found


def test_the_numbers_come_back(folder):
    assert read_check_plan(folder, {**RECIPE, "output_dir": "b", "run_name": "c"}) == NUMBERS


def test_another_recipe_has_no_plan(folder):
    assert read_check_plan(folder, {**RECIPE, "learning_rate": 2e-4}) == {}


def test_nothing_secret_is_kept(folder):
    assert "hf_" not in (folder.check / NAME).read_text()


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"recipe_sha256": 1}'])
def test_half_a_file_is_no_plan(folder, text):
    (folder.check / NAME).write_text(text)
    assert read_check_plan(folder, RECIPE) == {}
