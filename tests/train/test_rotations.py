"""Rotations that depend on the length of a sequence: refused where a completion crosses the bound, else exact."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from api_helpers import short, trainer
from tiny import CONFIGS, tiny_model

from groupwise.errors import ConfigError, GuardError
from groupwise.lifecycle import fits
from groupwise.policy.bounds import rotation_bound
from groupwise.runs.reader import RunReader

from .guarded import letters

BOUND = 24
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [9.0, 3.0, 7.0, 2.0]}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": BOUND, **FACTORS}
ROWS = [{"prompt": f"say {word}"} for word in ("one", "two", "three", "four")]
LONG = [{"prompt": f"say {word} " * 5} for word in ("one", "two", "three", "four")]


def phi3(rope: dict[str, Any] = LONGROPE) -> Any:
    return tiny_model("phi3", rope_parameters=rope, original_max_position_embeddings=BOUND)


def mismatches(folder: Path) -> list[float]:
    return [metrics["sampling/mismatch"] for metrics in RunReader(folder).metrics()]


@pytest.mark.parametrize("engine", ["auto", "transformers"])
def test_completions_that_cross_the_bound_are_refused_and_others_train_exactly(engine: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rewards": letters, "engine": engine, "learning_rate": 1e-4}
    with pytest.raises(ConfigError, match=rf"rotation \(longrope\) changes beyond {BOUND} tokens.*need 29 tokens"):
        trainer(tmp_path / "across", model=phi3(), data=ROWS, max_completion_length=20, **settings)
    trainer(tmp_path / "below", model=phi3(), data=ROWS, max_completion_length=15, **settings).train()
    trainer(tmp_path / "beyond", model=phi3(), data=LONG, max_completion_length=20, **settings).train()
    for name in ("below", "beyond"):
        assert max(mismatches(tmp_path / name)) < 1.00001


def test_held_out_prompts_are_looked_at_too(tmp_path: Path) -> None:
    rest = {"eval_dataset": [{"prompt": "say it with many words"}]}
    with pytest.raises(ConfigError, match="rotation"):
        trainer(tmp_path, model=phi3(), data=ROWS, max_completion_length=15, rewards=short, rest=rest)


def test_without_the_refusal_the_guard_of_every_step_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fits, "_check_rotation", lambda *_: None)
    run = trainer(tmp_path, model=phi3(), data=ROWS, rewards=letters, max_completion_length=40, max_steps=9)
    with pytest.raises(GuardError, match=r"Guard gap \(rollback\) at step 1"):
        run.train()


DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
KINDS = {
    "longrope": (lambda: phi3().config, ("longrope", BOUND)),
    "dynamic": (lambda: CONFIGS["llama"](rope_parameters=DYNAMIC), ("dynamic", 256)),
    "default": (lambda: CONFIGS["llama"](), None),
    "yarn": (lambda: CONFIGS["llama"](rope_parameters={"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}), None),
    "a rotation for each type of layer": (
        lambda: CONFIGS["gemma3"](
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                "full_attention": LONGROPE,
            }
        ),
        ("longrope", BOUND),
    ),
    "no rotation": (lambda: transformers.GPT2Config(), None),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_bound_is_found_wherever_it_stands(name: str) -> None:
    make, expected = KINDS[name]
    assert rotation_bound(make()) == expected


def test_the_bound_is_found_in_the_older_spelling() -> None:
    written = {"type": "longrope", **FACTORS}
    config = SimpleNamespace(rope_scaling=written, original_max_position_embeddings=40)
    assert rotation_bound(config) == ("longrope", 40)


def test_a_dynamic_rotation_within_its_bound_is_exact(tmp_path: Path) -> None:
    model = tiny_model(rope_parameters=DYNAMIC, max_position_embeddings=40)
    trainer(tmp_path, model=model, data=ROWS, rewards=letters, max_completion_length=30).train()
    assert max(mismatches(tmp_path)) < 1.00001
