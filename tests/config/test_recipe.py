"""Recipes: YAML in, everything explicit out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from groupwise.config import Recipe, load_recipe
from groupwise.errors import ConfigError

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_and_survives_its_record(path: Path) -> None:
    recipe = load_recipe(path)
    assert Recipe(**json.loads(json.dumps(recipe.resolved()))) == recipe
    assert recipe.config.notes == ()
    assert recipe.config.output_dir == f"runs/{path.stem}"


def test_the_case_study_recipes_are_one_case() -> None:
    """The same settings; model, data and what depends on them differ."""
    here, there = (
        load_recipe(SHIPPED[0].parent / f"{name}.yaml") for name in ("case-study-smollm2-cpu", "smoltldr-smollm-135m")
    )
    same = (
        "prompts_per_step",
        "num_generations",
        "max_prompt_length",
        "max_completion_length",
        "learning_rate",
        "dtype",
    )
    for name in (*same, "lr_scheduler_type", "num_iterations", "objective"):
        assert getattr(here.config, name) == getattr(there.config, name), name
    assert (here.lora, here.rewards) == (there.lora, there.rewards)
    assert here.config.completions_per_step == 8


def test_a_recipe_knows_its_folder(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "seed: 1\n")).folder == tmp_path
    assert Recipe().folder is None


def test_short_forms_are_written_out() -> None:
    short = Recipe(data="python-docs", rewards="length", lora=True)
    long = Recipe(data={"path": "python-docs"}, rewards=[{"name": "length", "params": {}}], lora={"r": 16})
    assert short == long
    assert Recipe(data={"name": "python-docs"}).data == long.data
    assert Recipe(lora=None).lora is None
    assert Recipe(lora=False).lora is None


def test_rewards_are_told_apart_by_their_form(tmp_path: Path) -> None:
    rewards = Recipe(rewards=["length", "mine.py:f", "pkg.mod:f", "owner/model", str(tmp_path)]).rewards
    kinds = [next(k for k in ("function", "model", "name") if getattr(reward, k)) for reward in rewards]
    assert kinds == ["name", "function", "function", "model", "model"]
    (reward,) = Recipe(rewards={"name": "length", "target": 40, "weight": 0.5}).rewards
    assert reward.resolved() == {"name": "length", "target": 40, "weight": 0.5}


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ({"dta": "python-docs"}, 'unknown key "dta". Did you mean "data"?'),
        ({"data": "python-dcos"}, 'there is no data set "python-dcos". Did you mean "python-docs"?'),
        ({"data": {"path": "a/b", "splt": "x"}}, 'data: unknown key "splt". Did you mean "split"?'),
        ({"data": {"path": "a/b", "name": "x"}}, "data: has name and path, which mean the same"),
        ({"data": {"split": "train"}}, "data.path"),
        ({"rewards": ["lenght"]}, 'rewards.0: There is no reward "lenght"'),
        (
            {"rewards": [{"name": "length", "targt": 5}]},
            'no setting "targt"; it has target, unit, weight',
        ),
        ({"rewards": [{"weight": 5}]}, "has neither name (a shipped reward: length"),
        ({"rewards": [{"function": "a:b", "model": "c/d"}]}, "has a function and a model"),
        ({"rewards": ["length"], "reward_weights": [1, 2]}, "reward_weights has 2 numbers for 1 rewards"),
        ({"rewards": [{"name": "length", "weight": 1}], "reward_weights": [1]}, "are both set"),
        ({"lora": {"colour": 4}}, 'lora: unknown key "colour". The keys are r, lora_alpha'),
        ({"lora": {"r": 0}}, "lora.r is 0; expected a number of at least 1."),
        ({"task": "countdown", "data": "python-docs"}, "Keep one of them."),
        ({"task": "x"}, 'there is no task "x"; there are arithmetic, countdown'),
        ({"objective": "dapoo"}, 'Did you mean "dapo"?'),
    ],
)
def test_a_mistake_at_any_level(written: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe(**written)
    assert sentence in str(caught.value)


def test_mistakes_in_ingredients_and_settings_come_together(tmp_path: Path) -> None:
    path = write(tmp_path, "lora: {rank: 4}\nlearning_rte: 1\ntemperature: -1\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: 3 problems")
    assert all(word in text for word in ("rank", "learning_rte", "temperature is -1"))


def test_overrides_reach_every_level(tmp_path: Path) -> None:
    path = write(tmp_path, "data: python-docs\nrewards: [length]\nlora: {r: 4}\nobjective: dapo\n")
    overrides = ["learning_rate=1e-5", "data.split=train[:10]", "rewards.0.target=40", "lora.r=8"]
    recipe = load_recipe(path, [*overrides, "objective.epsilon_high=0.3", "output_dir=there", "seed=7"])
    assert recipe == Recipe(
        data={"path": "python-docs", "split": "train[:10]"},
        rewards=[{"name": "length", "target": 40}],
        lora={"r": 8},
        objective={"preset": "dapo", "epsilon_high": 0.3},
        learning_rate=1e-5,
        output_dir="there",
        seed=7,
    )
    assert load_recipe(path, ["lora=null"]).lora is None


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("learning_rate", "expected key=value"),
        ("seed.x=3", "has no keys of its own"),
        ("rewards.4.target=3", "no place in a list of 1"),
        ("learning_rte=3", 'Did you mean "learning_rate"?'),
        ("stop=[a", "not valid YAML"),
    ],
)
def test_a_wrong_override(tmp_path: Path, override: str, sentence: str) -> None:
    path = write(tmp_path, "rewards: [length]\nseed: 1\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, [override])
    assert sentence in str(caught.value)
