"""How ranks are started: what is printed for one machine, for several and for SLURM."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from groupwise.cli import main
from groupwise.lifecycle.launch_plan import LaunchPlan
from tests.tiny import tiny_model

ARGUMENTS = ("my recipe.yaml", "--set", "shard=full")


def test_one_rank_needs_no_launcher() -> None:
    assert LaunchPlan(ARGUMENTS, "run").command == "groupwise train 'my recipe.yaml' --set shard=full"


def test_one_machine_is_alone() -> None:
    command = LaunchPlan(ARGUMENTS, "run", 1, 8).command
    assert command == "torchrun --standalone --nproc-per-node 8 -m groupwise train 'my recipe.yaml' --set shard=full"


def test_several_machines_meet_at_one() -> None:
    lines = LaunchPlan(ARGUMENTS, "run", 4, 8).lines("the plan")
    assert lines[0] == "the plan"
    assert "--nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HEAD:29500 --rdzv-id run" in lines[-1]


def test_the_script_for_slurm_is_one_that_bash_reads(tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(LaunchPlan(ARGUMENTS, "a run", 4, 8).slurm_script("the plan"))
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert "#SBATCH --nodes=4" in text
    assert "#SBATCH --gpus-per-node=8" in text
    assert "--gpus-per-node" not in LaunchPlan(ARGUMENTS, "a run", 4, 8, has_gpus=False).slurm_script("")


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"no weights at all")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n' * 8)
    path = tmp_path / "recipe.yaml"
    path.write_text("model: ./model\ndata: rows.jsonl\nrewards: [length]\noutput_dir: out\n")
    return path


def run(arguments: list[str], *, code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == code


def test_print_loads_no_weights(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["train", str(recipe), "--print", "--nodes", "2", "--ranks-per-node", "4", "--set", "shard=full"], code=0)
    printed = capsys.readouterr().out
    assert printed.startswith("each of 8 ranks: ")
    assert "torchrun --nnodes 2 --nproc-per-node 4" in printed
    assert not (recipe.parent / "out").exists()


def test_print_writes_a_script(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["train", str(recipe), "--print", "--slurm", "--ranks-per-node", "2"], code=0)
    assert capsys.readouterr().out.startswith("#!/bin/bash\n")


def test_what_describes_a_cluster_needs_print(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["train", str(recipe), "--nodes", "2"], code=2)
    assert "Add --print" in capsys.readouterr().err
