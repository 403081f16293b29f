"""What a program calls of Unsloth: the loader, which gives transformers' model under a peft adapter."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer


class FastLanguageModel:
    @staticmethod
    def from_pretrained(model_name: str, **settings: Any) -> tuple[Any, Any]:
        return AutoModelForCausalLM.from_pretrained(model_name), AutoTokenizer.from_pretrained(model_name)

    @staticmethod
    def get_peft_model(model: Any, use_gradient_checkpointing: str, **settings: Any) -> Any:
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))


def is_bfloat16_supported() -> bool:
    return True
