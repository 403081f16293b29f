"""The recipes of tasks run as they are written, with a tiny model and rows of a test's own."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from api_helpers import model_folder

from groupwise import GRPOTrainer
from groupwise.config import load_recipe
from groupwise.rewards.sandbox import backend_choice as choice
from groupwise.rewards.sandbox.detect import Found
from groupwise.rewards.sandbox.unconfined import Unconfined
from groupwise.runs.metrics import unknown_keys
from groupwise.runs.reader import RunReader

RECIPES = Path(__file__).parents[2] / "recipes"
CATEGORIES = ("billing", "delivery", "returns", "account", "technical")
SMALL = ("max_steps=2", "prompts_per_step=2", "num_generations=2", "max_completion_length=8", "use_cpu=true",
         "dtype=float32", "lora.r=2", "save_strategy=no")  # fmt: skip


def run(name: str, folder: Path, *changes: str) -> tuple[GRPOTrainer, list[dict[str, Any]]]:
    """Train a recipe with a tiny model for two steps; the trainer and the records."""
    model = model_folder(folder / "tiny", max_position_embeddings=2048)
    recipe = load_recipe(RECIPES / f"{name}.yaml", [*SMALL, f"model={model}", f"output_dir={folder / 'run'}", *changes])
    trainer = GRPOTrainer.from_recipe(recipe, folder=recipe.folder)
    trainer.train()
    return trainer, RunReader(folder / "run").metrics()


def test_the_r1_recipe_runs_on_gsm8k_rows(tmp_path: Path) -> None:
    data = tmp_path / "gsm8k"
    data.mkdir()
    for split, count in (("train", 4), ("test", 2)):
        rows = [
            {"question": f"what is {n} plus 1?", "answer": f"it is <<{n}+1={n + 1}>>.\n#### {n + 1}"}
            for n in range(count)
        ]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trainer, records = run("gsm8k-qwen2.5-0.5b-gpu", tmp_path, f"task.path={data}", "task.subset=null", "eval_steps=1")
    assert [record["step"] for record in records] == [1, 2]
    for record in records:
        assert unknown_keys(record) == []
        assert {f"rewards/{name}/mean" for name in ("gsm8k", "r1_format", "tag_count")} <= record.keys()
        assert record["eval_reward"] is not None
    assert [(f.name, f.weight) for f in trainer.scorer.functions] == [
        ("gsm8k", 1.0),
        ("r1_format", 0.2),
        ("tag_count", 0.1),
    ]
    prompt = trainer.parts.problems[0].problem.prompt
    assert [message["role"] for message in prompt] == ["system", "user"]
    assert "between <think> and </think>" in prompt[0]["content"]
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    assert recorded["recipe"]["task"]["name"] == "gsm8k"
    again = load_recipe(RECIPES / "gsm8k-qwen2.5-0.5b-gpu.yaml").config
    assert (again.completions_per_step, again.objective.beta) == (256, 0.001)


def test_the_arithmetic_recipe_runs_and_holds_a_fifth_out(tmp_path: Path) -> None:
    trainer, records = run("arithmetic-smollm2-cpu", tmp_path)
    assert len(trainer.parts.problems) + len(trainer.parts.held_out[""]) == 3 * 81
    assert len(records) == 2


@pytest.mark.slow
@pytest.mark.parametrize("may_use_a_sandbox", [True, False])
def test_the_reasoning_gym_recipe_scores_in_its_workers(
    tmp_path: Path, may_use_a_sandbox: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scorer only reads, so a machine without a sandbox trains it, too; the run records what it was."""
    if importlib.util.find_spec("reasoning_gym") is None:
        pytest.skip("reasoning-gym is not here")
    if not may_use_a_sandbox:
        monkeypatch.setattr(choice, "find_bubblewrap", lambda: Found(None, "There is none."))
    _, records = run("chain-sum-smollm2-cpu", tmp_path)
    assert [record["extra/reasoning_gym/unscorable"] for record in records] == [0.0, 0.0]
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    backend = choice.find_bubblewrap().backend or Unconfined()
    assert recorded["sandbox"] == [backend.name]
    assert recorded["sandbox_programs"] == {backend.name: backend.about}


def test_the_summary_recipe_keeps_both_rewards_between_0_and_1(tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    _, records = run("summary-smollm2-cpu", tmp_path)
    for record in records:
        assert 0 <= record["rewards/rouge/mean"] <= 1
        assert 0 <= record["reward"] <= 2


def test_the_recipe_of_own_data_holds_other_tickets_out(tmp_path: Path) -> None:
    trainer, records = run("tickets-smollm2-cpu", tmp_path, "num_generations_eval=1", "num_eval_problems=2")
    problems, others = trainer.parts.inputs.problems, trainer.parts.inputs.held_out[""]
    trained, held_out = ([problem.prompt[-1]["content"] for problem in rows] for rows in (problems, others))
    assert (len(trained), len(held_out)) == (90, 30)
    assert not set(trained) & set(held_out)
    assert {problem.columns["category"] for problem in problems} == set(CATEGORIES)
    for record in records:
        assert {"rewards/exact_match/mean", "rewards/regex/mean"} <= record.keys()
    assert records[-1]["eval_reward"] is not None
    regex = next(f for f in trainer.scorer.functions if f.name == "regex")
    assert regex.call(completions=[*CATEGORIES, "Billing.", "billing is it", ""]) == [1.0] * 6 + [0.0, 0.0]
