"""Rewards typed in by hand, as two reward functions give them: the same for TRL and for groupwise.

Run with TRL 1.16 installed, this file writes `trl_log.json` beside it: what TRL logs for them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Rewards = list[float | None]

FIRST: tuple[Rewards, ...] = (
    [1.0, 2.0, 4.0, 8.5, -1.0, 0.0, 0.5, 3.0],
    [2.0, 2.0, 2.0, 2.0, 5.0, 5.0, 5.0, 6.0],
    [0.1, 0.1, 0.1, 0.1, 0.7, 0.7, 0.7, 0.7],
    [-287.3, -287.3, -287.3, -287.3, 1.0, None, 3.0, 4.0],
)
"""Rewards of the function `first` in each of four steps: two groups of four completions."""

SECOND: tuple[Rewards, ...] = (
    [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0],
    [None, 1.0, None, 1.0, 0.0, None, 0.0, 0.0],
    [None] * 8,
    [None, None, None, None, None, None, 7.0, 2.0],
)
"""The same for `second`; no function scores the sixth completion of the last step."""

WEIGHTS = [1.0, 0.5]
KEYS = (
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    *(f"rewards/{f}/{k}" for f in ("first", "second") for k in ("mean", "std")),
)
REFERENCE = Path(__file__).parent / "trl_log.json"


def functions() -> list[Callable[..., Rewards]]:
    """Both as reward functions of a trainer: the first call gives the first row, whatever the completions are."""
    rows = {"first": iter(FIRST), "second": iter(SECOND)}

    def first(completions: list[str], log_metric: Any, **columns: Any) -> Rewards:
        log_metric("hand_made", 2.5)
        return next(rows["first"])

    def second(completions: list[str], **columns: Any) -> Rewards:
        return next(rows["second"])

    return [first, second]


def settings(output_dir: Path, logging_steps: int) -> dict[str, Any]:
    """Keyword arguments of `GRPOConfig`, the same for both libraries."""
    return {
        "output_dir": str(output_dir),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 4,
        "max_steps": len(FIRST),
        "logging_steps": logging_steps,
        "reward_weights": WEIGHTS,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
    }


def log_of(trainer: Any, config: Any, folder: Path, logging_steps: int) -> list[dict[str, Any]]:
    """Train the tiny model with the typed rewards, and the training entries of `log_history`."""
    from tiny import tiny_model, tiny_tokenizer

    run = trainer(
        model=tiny_model(),
        reward_funcs=functions(),
        args=config(**settings(folder, logging_steps)),
        train_dataset=rows(),
        processing_class=tiny_tokenizer(),
    )
    run.train()
    return [entry for entry in run.state.log_history if "reward" in entry]


def rows() -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"prompt": text} for text in ("ab", "cd", "ef", "gh")])


def main() -> None:
    from trl import GRPOConfig, GRPOTrainer, __version__

    sys.path.insert(0, str(Path(__file__).parents[1]))
    logs: dict[str, Any] = {"trl": __version__}
    for every in (1, 2, 3):
        with tempfile.TemporaryDirectory() as folder:
            entries = log_of(GRPOTrainer, GRPOConfig, Path(folder), every)
        logs[f"logging_steps {every}"] = [{key: entry[key] for key in KEYS if key in entry} for entry in entries]
        logs["keys"] = sorted(entries[0])
    REFERENCE.write_text(json.dumps(logs, indent=1) + "\n")


if __name__ == "__main__":
    main()
