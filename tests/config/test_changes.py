"""What may change when a run is resumed."""

from __future__ import annotations

from typing import Any

import pytest

from groupwise.config import GRPOConfig, Recipe
from groupwise.config.changes import AROUND, INGREDIENTS, LENGTH, ROUNDING, changes, keeps_schedule
from groupwise.config.fields import SECTIONS
from groupwise.config.recipe import RecipeFields

RECIPE = {"data": "python-docs", "rewards": [{"name": "length", "target": 4}], "lora": {"r": 4}, "eval_steps": 5}


def test_the_tables_name_keys_that_exist():
    fields = {name for section in SECTIONS for name in section.model_fields}
    assert {key for key in AROUND | ROUNDING | LENGTH if "." not in key} <= fields
    assert not AROUND & ROUNDING
    assert set(RecipeFields.model_fields) == INGREDIENTS


def found(**changed: Any) -> dict[str, bool]:
    """Key -> whether it makes another experiment."""
    old, new = Recipe(**RECIPE).resolved(), Recipe(**{**RECIPE, **changed}).resolved()
    return {change.key: change.is_another_experiment for change in changes(old, new)}


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, {}),
        ({"max_steps": 9, "num_train_epochs": 2}, {}),
        (
            {"save_steps": 9, "run_name": "x", "guards": "off"},
            {"save_steps": False, "run_name": False, "guards": False},
        ),
        ({"micro_batch_tokens": 99, "dtype": "float32"}, {"micro_batch_tokens": False, "dtype": True}),
        ({"beta": 0.5}, {"objective.beta": True}),
        ({"lora": {"r": 8}}, {"lora.r": True}),
        ({"lora": None}, {"lora": True}),
        ({"rewards": [{"name": "length", "target": 5}]}, {"rewards[0].target": True}),
        ({"rewards": [*RECIPE["rewards"], {"name": "tag_count"}]}, {"rewards": True}),  # type: ignore[misc]
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"chat_template_kwargs": True}),
        ({"data": {"path": "python-docs", "eval_split": "eval"}}, {"data.eval_split": False}),
        ({"data": {"path": "python-docs", "split": "[:90%]"}}, {"data.split": True}),
    ],
)
def test_each_key_is_told_apart(changed, wanted):
    assert found(**changed) == wanted


def test_what_a_program_and_a_file_write_in_forms_of_their_own_is_no_change():
    file = Recipe(**RECIPE).resolved()
    program = {**file, "data": "python-docs", "rewards": [{"function": "length", "weight": 1.0}], "lora": {"r": 4}}
    assert changes(file, program) == changes(program, file) == []
    del file["seed"]  # recorded by a version that had no such key
    assert changes(file, program) == []


@pytest.mark.parametrize(
    ("settings", "keeps"),
    [
        ({}, False),
        ({"lr_scheduler_type": "constant"}, True),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 3}, True),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_ratio": 0.1}, False),
    ],
)
def test_a_schedule_that_does_not_depend_on_the_length_is_known(settings, keeps):
    assert keeps_schedule(GRPOConfig(**settings).resolved()) is keeps
