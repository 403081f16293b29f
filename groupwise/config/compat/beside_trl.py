"""Defaults of a run that differ from TRL's, for a script that uses TRL's words and leaves them unset."""

from __future__ import annotations

import sys
from typing import Any

from groupwise.config.compat.batch_words import WORDS as BATCH_WORDS
from groupwise.config.compat.foreign_getters import read
from groupwise.config.compat.loss_aliases import WORDS as LOSS_WORDS
from groupwise.config.settings import Settings

_WORDS = {*BATCH_WORDS, "num_train_epochs", "loss_type", *LOSS_WORDS}

_DEFAULTS: tuple[tuple[str, tuple[str, ...], Any, str], ...] = (
    ("per_device_train_batch_size", (*BATCH_WORDS, "prompts_per_step"), 8, "{0} completions (TRL: {1})"),
    ("num_train_epochs", ("num_train_epochs", "max_steps"), 3, "{0:g} (TRL: {1})"),
    ("drop_incomplete_step", ("drop_incomplete_step", "dataloader_drop_last", "max_steps"), True, "{0} (TRL: {1})"),
    ("beta", ("beta", "objective"), 0.0, "{0:g} (TRL: {1:g})"),
    ("loss_type", ("loss_type", "aggregation", "trust_region", "objective"), "dapo", "{0} (TRL: {1})"),
    (
        "mismatch",
        ("mismatch", "vllm_importance_sampling_correction", "objective"),
        "seq_mask",
        "{0} (TRL: {1}, at most 3)",
    ),
    ("learning_rate", ("learning_rate",), 1e-6, "1e-5 with an adapter (TRL: 1e-6)"),
    ("gradient_checkpointing", ("gradient_checkpointing", "activation_checkpointing"), True, "{0} (TRL: {1})"),
    ("logging_steps", ("logging_steps", "logging_strategy"), 10, "{0} (TRL: {1})"),
)
"""Key, the words that set it, TRL's default, and how a difference is worded."""


def differences(settings: Settings, *, has_adapter: bool = False) -> list[str]:
    """One note of several lines, or nothing: for a script with TRL's words for batch, epochs or loss, or beside TRL.

    The learning rate differs where an adapter is trained.
    """
    written = {name for name, value in settings.as_written.items() if value is not None}
    if settings.conventions == "trl" or not (written & _WORDS or "trl" in sys.modules):
        return []
    lines = [
        f"  {name} {wording.format(read(settings, name), default)}"
        for name, words, default, wording in _DEFAULTS
        if not written & {*words} and (has_adapter if name == "learning_rate" else read(settings, name) != default)
    ]
    if not lines:
        return []
    end = "from groupwise.trl import GRPOConfig, GRPOTrainer takes TRL's."
    return ["\n".join(["Not set here, and TRL's default is another:", *lines, end])]
