"""What fills a key that was not written, under groupwise's conventions and under TRL's."""

from __future__ import annotations

from typing import Any

DEFAULT_PRESET = {"groupwise": "grpo", "trl": "trl_default"}
"""Conventions -> the algorithm that the objective starts from."""

DEFAULT_FIELDS: dict[str, dict[str, Any]] = {
    "groupwise": {},
    "trl": {
        "output_dir": "trainer_output",
        "num_train_epochs": 3.0,
        "drop_incomplete_step": True,
        "optim": "adamw_fused",
        "learning_rate": 1e-6,
        "gradient_checkpointing": True,
        "logging_steps": 10,
        "eval_greedy": False,
        "max_turns": 1_000_000,
    },
}
"""Conventions -> the fields whose default is another than that of `Settings`. The batch is in `DEFAULT_BATCH`."""

DEFAULT_BATCH: dict[str, dict[str, int]] = {"groupwise": {}, "trl": {"per_device_train_batch_size": 8}}
"""Conventions -> the words for the batch that hold where none was written."""
