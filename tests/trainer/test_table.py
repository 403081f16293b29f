"""The table of the trainer's members is complete: a name that transformers or TRL adds is noticed."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from groupwise import GRPOConfig, GRPOTrainer
from groupwise.config.compat.trainer_names import (
    ARGUMENTS,
    ATTRIBUTES,
    CALLBACK_KEYWORDS,
    CALLED,
    HOOKS,
    MEMBERS,
    METHODS,
    OF_ARGS,
)

from .trainer_members_of import members

TRL: dict[str, Any] = json.loads((Path(__file__).parent / "trl_names.json").read_text(encoding="utf-8"))
TRANSFORMERS = members(transformers.Trainer)
BOTH = pytest.mark.parametrize("theirs", [TRL, TRANSFORMERS], ids=["trl", "transformers"])
EVERY = (*ARGUMENTS, *METHODS, *ATTRIBUTES, *HOOKS, *CALLBACK_KEYWORDS)


@BOTH
def test_every_argument_is_in_the_table(theirs: dict[str, Any]) -> None:
    assert set(theirs["arguments"]) <= {entry.name for entry in ARGUMENTS}


@BOTH
def test_every_method_is_in_the_table_and_so_are_the_keywords_of_those_that_are_here(theirs: dict[str, Any]) -> None:
    assert theirs["methods"].keys() <= MEMBERS.keys()
    known = {entry.name for entry in METHODS}
    for name, parameters in theirs["methods"].items():
        if MEMBERS[name].kind == "same":
            assert {f"{name}({parameter})" for parameter in parameters} <= known, name


@BOTH
def test_every_public_attribute_is_in_the_table(theirs: dict[str, Any]) -> None:
    assert {name for name in theirs["attributes"] if not name.startswith("_")} <= MEMBERS.keys()


def test_a_new_member_is_noticed() -> None:
    class Newer(transformers.Trainer):
        def dream(self, depth: int) -> None: ...

    found = members(Newer)
    assert found["methods"]["dream"] == ["depth"]
    with pytest.raises(AssertionError):
        test_every_method_is_in_the_table_and_so_are_the_keywords_of_those_that_are_here(found)


def test_what_is_the_same_is_there() -> None:
    taken = inspect.signature(GRPOTrainer).parameters
    assert {entry.name for entry in ARGUMENTS if entry.kind == "same"} <= taken.keys()
    kept = {"args", "hub_model_id"}
    for name, entry in MEMBERS.items():
        assert hasattr(GRPOTrainer, name) == (entry.kind == "same" and name not in kept) or name in (
            "model_wrapped",
            "tokenizer",
            "get_high_entropy_mask",
            "get_off_policy_mask",
        ), name
    for entry in METHODS:
        name, _, keyword = entry.name.removesuffix(")").partition("(")
        if keyword and name != "create_model_card":
            assert keyword in inspect.signature(getattr(GRPOTrainer, name)).parameters, entry.name


def test_what_comes_from_args_can_be_read_there() -> None:
    for entry in OF_ARGS:
        getattr(GRPOConfig(), entry.name)


def test_every_other_kind_has_a_sentence_and_no_name_stands_twice() -> None:
    assert [entry.name for entry in EVERY if entry.kind != "same" and not entry.sentence] == []
    for table in (ARGUMENTS, METHODS, ATTRIBUTES, HOOKS, CALLBACK_KEYWORDS):
        names = [entry.name for entry in table]
        assert len(names) == len(set(names))
    assert {entry.name for entry in METHODS}.isdisjoint(entry.name for entry in (*ATTRIBUTES, *HOOKS))
    assert MEMBERS.keys() >= CALLED
    assert all(not entry.sentence.endswith(".") for entry in EVERY)
