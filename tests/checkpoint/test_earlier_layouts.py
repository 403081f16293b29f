"""Checkpoints of earlier layouts resume: parts side by side, as every version before the hooks wrote them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from api_helpers import trainer
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from groupwise.runs import manifest
from groupwise.runs.folder import RunFolder
from groupwise.runs.reader import RunReader

SETTINGS = {"max_steps": 4, "save_steps": 2, "lr_scheduler_type": "constant", "beta": 0.1, "eval_on_start": True}
EARLIER = {"guards": "watch"}
"""Name of a part -> its name before."""


def in_the_earlier_layout(checkpoint: Path) -> None:
    """Write the state of a checkpoint as it was written before."""
    state = json.loads((checkpoint / "state/state.json").read_text())
    keys = state.pop("weights")
    weights = load_file(checkpoint / "model.safetensors")
    save_file({name: weights[key] for name, key in keys.items()}, checkpoint / "policy.safetensors")
    for file in checkpoint.glob("state/*.safetensors"):
        file.rename(checkpoint / file.name)
    shutil.rmtree(checkpoint / "state")
    for file in ("model.safetensors", "config.json", "generation_config.json"):
        (checkpoint / file).unlink()
    parts = state.pop("parts")
    state |= parts.pop("totals") | parts.pop("evaluation")
    for guards in (parts["guards"]["records"], state["origin"]["recipe"]["guards"]):
        guards["not_judged"] = guards.pop("unscored")
    state |= {EARLIER.get(name, name): value for name, value in parts.items()}
    (checkpoint / "state.json").write_text(json.dumps(state))
    (checkpoint / manifest.MANIFEST).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "FORMAT", 3)
        manifest.write(checkpoint)


def test_a_run_goes_on_from_a_checkpoint_with_its_parts_side_by_side(tmp_path: Path) -> None:
    rest = {"eval_dataset": [{"prompt": "say ten"}]}
    whole = trainer(tmp_path / "whole", model=tiny_model(), rest=rest, **SETTINGS)
    whole.train()
    trainer(tmp_path / "parts", model=tiny_model(), rest=rest, **{**SETTINGS, "max_steps": 2}).train()
    folder = RunFolder(tmp_path / "parts")
    in_the_earlier_layout(folder.checkpoint_of(2))
    resumed = trainer(tmp_path / "parts", model=tiny_model(), rest=rest, **SETTINGS)
    resumed.train(resume_from_checkpoint=True)
    for mine, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert resumed.state.global_step == 4
    changed = [e["message"] for e in RunReader(tmp_path / "parts").events() if e["kind"] == "recipe_changed"]
    assert not [message for message in changed if "guards" in message]
    assert [e for e in resumed.state.log_history if e["step"] == 0], "the evaluation before the first step is kept"
