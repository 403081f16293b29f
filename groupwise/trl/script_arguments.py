"""TRL's `ScriptArguments` and `ModelConfig`, and what its scripts make of them: the adapter and the quantization."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from groupwise.errors import ConfigError


@dataclass
class ScriptArguments:
    """The data set, as command lines of TRL's scripts name it."""

    dataset_name: str | None = field(default=None, metadata={"help": "Data set: a Hub id or a folder."})
    dataset_config: str | None = field(default=None, metadata={"help": "Its configuration, where it has several."})
    dataset_train_split: str = field(default="train", metadata={"help": "Rows to train on."})
    dataset_test_split: str = field(default="test", metadata={"help": "Held-out rows."})
    dataset_streaming: bool = field(default=False, metadata={"help": "Whether rows are streamed."})
    ignore_bias_buffers: bool = field(default=False, metadata={"help": "No effect here: of several processes alone."})


@dataclass
class ModelConfig:
    """The model and its adapter, as command lines of TRL's scripts name them."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Model: a Hub id or a folder."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a model on the Hub."})
    dtype: str | None = field(default="float32", metadata={"help": "Precision that the weights are loaded in."})
    attn_implementation: str | None = field(default=None, metadata={"help": "Attention, by its name in transformers."})
    use_peft: bool = field(default=False, metadata={"help": "Whether to train an adapter."})
    lora_r: int = field(default=16, metadata={"help": "Rank."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale: times lora_alpha / lora_r."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Kept for the record; no dropout is used."})
    lora_target_modules: list[str] | None = field(default=None, metadata={"help": "Modules with an adapter."})
    lora_target_parameters: list[str] | None = field(default=None, metadata={"help": "Parameters with an adapter."})
    lora_modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained in full."})
    lora_task_type: str = field(default="CAUSAL_LM", metadata={"help": "Kind of model, as peft names it."})
    use_rslora: bool = field(default=False, metadata={"help": "Whether the scale has sqrt(lora_r)."})
    use_dora: bool = field(default=False, metadata={"help": "Whether direction and magnitude are trained apart."})
    load_in_8bit: bool = field(default=False, metadata={"help": "Whether the weights are held in 8 bits."})
    load_in_4bit: bool = field(default=False, metadata={"help": "Whether the weights are held in 4 bits."})
    bnb_4bit_quant_type: str = field(default="nf4", metadata={"help": "Kind of 4-bit numbers: nf4 or fp4."})
    use_bnb_nested_quant: bool = field(default=False, metadata={"help": "Whether their scales are quantized too."})
    bnb_4bit_quant_storage: str | None = field(default=None, metadata={"help": "Type they are stored in."})

    def __post_init__(self) -> None:
        if self.load_in_8bit and self.load_in_4bit:
            raise ConfigError("load_in_8bit and load_in_4bit are both set. Keep one of them.")
        if isinstance(self.lora_target_modules, list) and len(self.lora_target_modules) == 1:
            self.lora_target_modules = self.lora_target_modules[0]  # type: ignore[assignment]  # may be a pattern


def get_peft_config(model_args: ModelConfig) -> Any:
    """The `peft.LoraConfig` that the arguments ask for, or None."""
    if not model_args.use_peft:
        return None
    from peft import LoraConfig

    targets = model_args.lora_target_parameters
    return LoraConfig(
        task_type=model_args.lora_task_type,
        r=model_args.lora_r,
        lora_alpha=model_args.lora_alpha,
        lora_dropout=model_args.lora_dropout,
        target_modules=model_args.lora_target_modules,
        modules_to_save=model_args.lora_modules_to_save,
        use_rslora=model_args.use_rslora,
        use_dora=model_args.use_dora,
        **({} if targets is None else {"target_parameters": targets}),
    )


def get_quantization_config(model_args: ModelConfig) -> Any:
    """The `transformers.BitsAndBytesConfig` that the arguments ask for, or None."""
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        return None
    from transformers import BitsAndBytesConfig

    if model_args.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_compute_dtype=model_args.dtype,
        bnb_4bit_quant_type=model_args.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=model_args.use_bnb_nested_quant,
        bnb_4bit_quant_storage=model_args.bnb_4bit_quant_storage,
    )


def get_kbit_device_map() -> dict[str, int] | None:
    """Where earlier TRL put a quantized model: on this process' GPU; None without one."""
    import torch

    return {"": 0} if torch.cuda.is_available() else None
