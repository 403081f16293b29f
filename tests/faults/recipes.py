"""Tiny runs that between them use everything a checkpoint has to hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from api_helpers import ROWS, trainer
from tiny import tiny_model, with_lora
from transformers import EarlyStoppingCallback

from groupwise.runs.screen import make_screen

NUM_STEPS = 7
COMMON: dict[str, Any] = {
    "max_steps": NUM_STEPS,  # two epochs and a third of the six rows
    "num_generations": 3,
    "max_completion_length": 5,
    "learning_rate": 0.02,
    "warmup_steps": 1,
    "weight_decay": 0.1,
    "save_steps": 2,
    "save_total_limit": 2,
}
EVALUATED = {"eval_steps": 2, "num_generations_eval": 2, "load_best_model_at_end": True, "save_total_limit": 1}
RECIPES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "full, mu 2 x 2": (
        lambda: tiny_model("llama-tied"),
        {"beta": 0.0, "num_iterations": 2, "num_minibatches": 2, "save_steps": 1},
    ),
    "lora, synced reference": (
        lambda: with_lora(tiny_model()),
        {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 3},
    ),
    "adaptive coefficients, evaluated": (
        tiny_model,
        {"beta": 0.1, "kl_target": 0.01, "kl_horizon": 50, "use_adaptive_entropy": True, "entropy_target": 9.0}
        | EVALUATED
        | {"metric_for_best_model": "reward", "greater_is_better": False},
    ),
    "dynamic sampling, ema, pools": (
        lambda: with_lora(tiny_model(), is_learnt=False),
        {
            "objective": {"preset": "grpo", "baseline": "ema", "scale": "none", "beta": 0.0},
            "dynamic_sampling": True,
            "curriculum": "pools",
            "curriculum_patience": 1,
            "save_steps": 3,
        },
    ),
}


def letters(completions: list[str], **columns: Any) -> list[float]:
    """Equal values are common, so that some groups have no signal."""
    return [float(completion.count("a") + completion.count("e")) for completion in completions]


def make_trainer(name: str, folder: Path, rewards: Any = letters, **changes: Any) -> Any:
    """A trainer of that recipe, with nothing on screen."""
    make, settings = RECIPES[name]
    rest: dict[str, Any] = {"screen": make_screen(is_quiet=True)}
    if "eval_steps" in settings:
        rest |= {"eval_dataset": ROWS[:2], "callbacks": [EarlyStoppingCallback(99)]}
    return trainer(folder, model=make(), rewards=rewards, rest=rest, **{**COMMON, **settings, **changes})
