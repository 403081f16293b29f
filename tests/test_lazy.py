"""What can be imported without paying for torch, and what must work where a heavy package is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "peft", "datasets", "matplotlib", "pyarrow", "numpy")


def heavy_after(program: str) -> set[str]:
    """Heavy packages that a fresh interpreter has loaded after running this."""
    program += f"\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


@pytest.mark.parametrize(
    "program",
    [
        "import groupwise; dir(groupwise); groupwise.__version__",
        "from groupwise import GRPOConfig, GroupwiseError; GRPOConfig(objective='dapo').describe()",
        "from groupwise.trl import GRPOConfig, ModelConfig, RLOOConfig; GRPOConfig().describe(), RLOOConfig()",
        "from groupwise import GRPOConfig; GRPOConfig().learning_rate, GRPOConfig().world_size",
        "import groupwise.algo.objective as o; o.Objective.preset('grpo')",
        "import groupwise.algo, groupwise.types, groupwise.errors, groupwise.chat, groupwise.sources",
        "import groupwise.runs, groupwise.report, groupwise.data, groupwise.rewards, groupwise.tasks",
        "import groupwise.diagnose.doctor",
        "import groupwise.cli",
    ],
)
def test_light_modules_load_nothing_heavy(program):
    assert heavy_after(program) == set()


MISTAKES = {
    "key": ({"max_lenght": 3}, "max_lenght"),
    "reward": ({"rewards": ["lenght"]}, 'no reward "lenght"'),
    "reward file": ({"rewards": ["nowhere.py:f"]}, "no file"),
    "reward function": ({"rewards": ["mine.py:g"]}, 'no function "g"'),
    "data file": ({"data": "nowhere.jsonl"}, "no data file"),
    "prompt column": ({"data": {"path": "rows.jsonl", "columns": {"prompt": "qestion"}}}, "qestion"),
    "folder": ({"output_dir": "rows.jsonl/run"}, "is a file; expected a folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("command", ["train", "check"])
def test_a_mistake_that_needs_no_model_is_told_without_torch(tmp_path: Path, command: str, mistake: str) -> None:
    changes, says = MISTAKES[mistake]
    (tmp_path / "rows.jsonl").write_text('{"question": "a"}\n' * 8)
    (tmp_path / "mine.py").write_text("def f(completions):\n    return [0.0] * len(completions)\n")
    recipe = {"data": {"path": "rows.jsonl", "columns": {"prompt": "question"}}, "rewards": ["mine.py:f"], "lora": True}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe | changes))
    program = (
        f"import os, sys; os.chdir({str(tmp_path)!r}); from groupwise.cli import main\n"
        f"try:\n    main([{command!r}, 'recipe.yaml'])\n"
        "except SystemExit as ended:\n    assert ended.code == 2\n"
        "print(*[name for name in ('torch', 'transformers', 'peft') if name in sys.modules], '.')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert says in done.stderr.replace("\n", " ")
    assert done.stdout.splitlines()[-1].split() == ["."]


def test_a_column_that_a_reward_lacks_is_told_without_torch(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n' * 8)
    (tmp_path / "recipe.yaml").write_text(json.dumps({"data": "rows.jsonl", "rewards": ["number"], "lora": True}))
    program = (
        f"import os; os.chdir({str(tmp_path)!r}); from groupwise.cli import main\n"
        "try:\n    main(['train', 'recipe.yaml'])\nexcept SystemExit as ended:\n    assert ended.code == 2"
    )
    assert "torch" not in heavy_after(program)


def test_public_names_resolve_and_misspelt_ones_do_not():
    import groupwise

    assert all(getattr(groupwise, name) is not None for name in groupwise.__all__)
    with pytest.raises(AttributeError, match="GRPOTrainr"):
        _ = groupwise.GRPOTrainr
