"""Names of TRL: where groupwise defines them, and what stands in for the others where TRL is not installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from groupwise.rewards import TRLS

HOMES = {
    "GRPOConfig": "groupwise.trl.configs",
    "GRPOTrainer": "groupwise.trl.trainers",
    "ModelConfig": "groupwise.trl.script_arguments",
    "RLOOConfig": "groupwise.trl.configs",
    "RLOOTrainer": "groupwise.trl.trainers",
    "ScriptArguments": "groupwise.trl.script_arguments",
    "TrlParser": "groupwise.trl.parser",
    "get_kbit_device_map": "groupwise.trl.script_arguments",
    "get_peft_config": "groupwise.trl.script_arguments",
    "get_quantization_config": "groupwise.trl.script_arguments",
}
"""Name -> the module of groupwise that defines it. Resolved on first use, so that importing loads no torch."""

_OTHER = "groupwise trains with GRPO and its family"
_DATA = "prompts are read as text or chat messages"

OTHER_NAMES = {
    **dict.fromkeys(("SFTConfig", "SFTTrainer", "DPOConfig", "DPOTrainer", "KTOConfig", "KTOTrainer"), _OTHER),
    **dict.fromkeys(("RewardConfig", "RewardTrainer", "DistillationConfig", "DistillationTrainer"), _OTHER),
    **dict.fromkeys(("get_dataset", "DatasetMixtureConfig"), "load_dataset of the package datasets reads a data set"),
    **dict.fromkeys(("apply_chat_template", "maybe_apply_chat_template", "extract_prompt"), _DATA),
    **dict.fromkeys(("maybe_extract_prompt", "is_conversational", "maybe_convert_to_chatml"), _DATA),
    **dict.fromkeys(("is_conversational_from_value", "prepare_multimodal_messages", "pack_dataset"), _DATA),
    **dict.fromkeys(("unpair_preference_dataset", "maybe_unpair_preference_dataset"), _DATA),
    **dict.fromkeys(("clone_chat_template", "add_response_schema"), "the tokenizer's own chat template is used"),
    **dict.fromkeys(
        ("get_training_chat_template", "supports_tool_calling"), "every chat template takes tools as it is"
    ),
    "create_reference_model": "the reference is made by itself where beta is above 0",
    "init_zero_verbose": "Python's logging stays as your program sets it",
    "RichProgressCallback": "the screen shows progress by itself",
    "LogCompletionsCallback": "the run folder has every completion",
    "SyncRefModelCallback": "set sync_ref_model=True",
    "BEMACallback": "no average of the weights is kept",
    "WeaveCallback": "report_to names wandb, tensorboard or trackio",
}
"""Name in `trl` -> what stands in for it here."""


def from_trl(module: str, name: str) -> Any:
    """The object of that name in a module of TRL.

    Raises:
        ImportError: TRL is not installed, or has it no longer; with what to use instead.
    """
    if find_spec("trl") is None:
        raise ImportError(f"{name} is TRL's own, and trl is not installed: pip install trl, or {_instead(name)}.")
    try:
        return getattr(import_module(module), name)
    except AttributeError:
        raise ImportError(f"{name} is not in the installed trl. Instead: {_instead(name)}.") from None


def _instead(name: str) -> str:
    if name in TRLS:
        return f"use {TRLS[name]}"
    return f"leave it out: {OTHER_NAMES[name]}"
