"""A recipe without data takes the problems that its environment brings; the recipes of games are such."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from api_helpers import model_folder, write_recipe

from groupwise import GRPOTrainer
from groupwise.config import load_recipe
from groupwise.errors import ConfigError, DataError
from groupwise.lifecycle.inputs import RunInputs, read_inputs
from groupwise.replay import replay
from groupwise.runs.metrics import unknown_keys
from groupwise.runs.reader import RunReader

RECIPES = Path(__file__).parents[2] / "recipes"
GAMES = ("calculator", "grid", "guess")
MINE = """
class Mine:
    def __init__(self, count=3):
        self.count = count
    def problems(self, split):
        return [{"prompt": f"{split} {n}", "level": n} for n in range(self.count)] if split == "train" else None
    def reset(self, problem, seed): ...
    def step(self, reply): ...
    def close(self): ...
class Silent:
    def reset(self, problem, seed): ...
    def step(self, reply): ...
    def close(self): ...
"""


def inputs_of(folder: Path, **changes: Any) -> RunInputs:
    (folder / "mine.py").write_text(MINE)
    (folder / "model").mkdir(exist_ok=True)
    path = write_recipe(folder / "r.yaml", folder / "model", **{"rewards": None, "data": None, **changes})
    recipe = load_recipe(path)
    return read_inputs(recipe, recipe.folder)


def test_the_problems_are_the_environments(tmp_path):
    inputs = inputs_of(tmp_path, environment={"name": "mine.py:Mine", "count": 8})
    assert [problem.prompt for problem in inputs.problems] == [f"train {n}" for n in range(8)]
    assert list(inputs.problems.column_names) == ["level"]
    assert inputs.eval_problems is None


def test_data_of_the_recipe_comes_first(tmp_path):
    data = tmp_path / "own.jsonl"
    data.write_text('{"prompt": "mine"}\n' * 8)
    inputs = inputs_of(tmp_path, environment="mine.py:Mine", data=str(data))
    assert {problem.prompt for problem in inputs.problems} == {"mine"}


def test_an_environment_without_problems_needs_data(tmp_path):
    with pytest.raises(ConfigError, match="The recipe has no data"):
        inputs_of(tmp_path, environment="mine.py:Silent")
    with pytest.raises(DataError, match="Mine is empty"):
        inputs_of(tmp_path, environment={"name": "mine.py:Mine", "count": 0})


@pytest.mark.parametrize("game", GAMES)
def test_the_recipe_of_a_game_runs_and_can_be_played_again(tmp_path, game):
    model = model_folder(tmp_path / "tiny", max_position_embeddings=2048)
    small = ["max_steps=1", "prompts_per_step=2", "num_generations=2", "use_cpu=true", "dtype=float32", "lora.r=2"]
    folders = [f"model={model}", f"output_dir={tmp_path / 'run'}", "save_strategy=no"]
    recipe = load_recipe(RECIPES / f"{game}-smollm2-cpu.yaml", [*small, *folders])
    GRPOTrainer.from_recipe(recipe, folder=recipe.folder).train()
    reader = RunReader(tmp_path / "run")
    (metrics,) = reader.metrics()
    assert unknown_keys(metrics) == []
    assert metrics[f"rewards/{game}/unscored"] == 0
    assert all(c["turns"] for group in reader.completions(1) for c in group["completions"])
    assert replay(tmp_path / "run").is_equal
