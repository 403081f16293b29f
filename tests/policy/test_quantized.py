"""Quantized bases under LoRA: engine and learner agree, a run resumes, and weights alone are refused.

`make quantized` installs bitsandbytes and torchao and runs this file; elsewhere its tests are skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import trainer
from histories import StopAfter, history
from peft import LoraConfig
from tiny import tiny_model
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from groupwise.errors import ConfigError, ModelError
from groupwise.policy.quantized import quantization_of

RECORD = os.environ.get("QUANTIZED_RECORD")
"""File that gets the mismatch of every step by kind; `make quantized` sets it."""
BITSANDBYTES = "bitsandbytes"
TORCHAO = "torchao"


def bnb_4bit() -> Any:
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def bnb_8bit() -> Any:
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)


def torchao_4bit() -> Any:
    from torchao.quantization import IntxWeightOnlyConfig

    return TorchAoConfig(IntxWeightOnlyConfig(weight_dtype=torch.int4))


def torchao_8bit() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


KINDS = [
    pytest.param(BITSANDBYTES, bnb_4bit, id="bitsandbytes-4bit"),
    pytest.param(BITSANDBYTES, bnb_8bit, id="bitsandbytes-8bit"),
    pytest.param(TORCHAO, torchao_4bit, id="torchao-4bit"),
    pytest.param(TORCHAO, torchao_8bit, id="torchao-8bit"),
]


def need(package: str) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed: make quantized")


def keep(package: str, kind: str, mismatch: list[float]) -> None:
    """Add what was measured to the record of `make quantized`."""
    if RECORD is None:
        return
    path = Path(RECORD)
    known = json.loads(path.read_text()) if path.exists() else {}
    known[kind] = {"package": f"{package} {version(package)}", "mismatch by step": mismatch}
    path.write_text(json.dumps(known, indent=1) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    tiny_model(hidden_size=64, intermediate_size=128, head_dim=16).save_pretrained(path)
    return path


def load(folder: Path, config: Callable[[], Any]) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config(), dtype=torch.float32)


def rising(completions: list[str], **columns: Any) -> list[float]:
    return [float(sum(map(ord, completion)) % 17) for completion in completions]


def make(
    output_dir: Path, model: nn.Module | str, *callbacks: Any, quantization_config: Any = None, **settings: Any
) -> Any:
    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    rest = {"peft_config": lora, "callbacks": list(callbacks), "quantization_config": quantization_config}
    return trainer(output_dir, model=model, rewards=rising, rest=rest, max_steps=6, learning_rate=1e-2, **settings)


@pytest.mark.parametrize(("package", "config"), KINDS)
def test_six_steps_of_lora_agree_and_resume(
    package: str, config: Callable[[], Any], folder: Path, tmp_path: Path
) -> None:
    need(package)
    make(tmp_path / "whole", load(folder, config)).train()
    records = [json.loads(line) for line in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    assert len(records) == 6
    mismatch = [record["sampling/mismatch"] for record in records]
    assert max(mismatch) <= 1.03
    keep(package, config.__name__, mismatch)
    assert all(record["grad_norm"] > 0 for record in records)
    make(tmp_path / "parts", load(folder, config), StopAfter(3)).train()
    make(tmp_path / "parts", load(folder, config)).train(resume_from_checkpoint=True)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")


@pytest.mark.parametrize(("package", "config"), KINDS)
def test_quantized_weights_are_not_trained_themselves(
    package: str, config: Callable[[], Any], folder: Path, tmp_path: Path
) -> None:
    need(package)
    with pytest.raises(ModelError, match="cannot be trained themselves"):
        trainer(tmp_path, model=load(folder, config), rewards=rising)


@pytest.mark.parametrize(("package", "config"), KINDS)
def test_a_model_given_by_name_is_loaded_quantized(
    package: str, config: Callable[[], Any], folder: Path, tmp_path: Path
) -> None:
    need(package)
    by_argument = make(tmp_path / "argument", str(folder), quantization_config=config())
    by_argument.train()
    settings = {"model_init_kwargs": {"quantization_config": config()}}
    by_setting = make(tmp_path / "setting", str(folder), **settings)
    by_setting.train()
    assert quantization_of(by_argument.model) == quantization_of(by_setting.model) == package
    assert history(tmp_path / "argument") == history(tmp_path / "setting")


def test_a_quantization_for_a_loaded_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model is an object"):
        make(tmp_path, tiny_model(), quantization_config=bnb_4bit())


def test_8_bit_layers_that_look_at_other_rows_are_refused_with_the_setting_that_helps(
    folder: Path, tmp_path: Path
) -> None:
    need(BITSANDBYTES)
    model = load(folder, lambda: BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.3))
    with pytest.raises(ModelError, match="llm_int8_threshold="):
        make(tmp_path, model)
