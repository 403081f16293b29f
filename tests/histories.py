"""What two runs have in common: their records, without what the clock and the machine say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

MEASURED = ("time", "seconds", "per_second", "memory")


class StopAfter(TrainerCallback):
    """Asks for the end of the run when this step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def history(folder: Path) -> list[dict[str, Any]]:
    """Metrics without what the clock and the machine say."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if not any(word in k for word in MEASURED)} for record in records]


def completions(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted((folder / "completions").glob("*.jsonl"))}


def evaluations(folder: Path) -> dict[str, str]:
    """The held-out completions of all evaluations."""
    return {file.name: file.read_text() for file in sorted((folder / "evaluations").glob("*.jsonl"))}


def token_records(folder: Path) -> dict[str, bytes]:
    """The per-token records of all steps."""
    return {file.name: file.read_bytes() for file in sorted((folder / "completions").glob("*.safetensors"))}


def of_steps(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of `log_history` that are of steps: without evaluations and the closing entry."""
    return [entry for entry in log if "loss" in entry]


def timeless(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries without what a clock and the machine measure, and without the closing entry: it is of one process."""
    kept = [entry for entry in entries if "train_runtime" not in entry]
    return [{k: v for k, v in entry.items() if not any(word in k for word in MEASURED)} for entry in kept]
