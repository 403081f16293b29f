"""The memory plan of a rank against what a run of one process really holds; the sharded twin is tests/ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from groupwise.config import GRPOConfig
from groupwise.lifecycle.memory_plan import Machine, model_without_weights, plan_memory, planned_machine
from groupwise.policy.weight_sizes import WeightSizes
from tests.ranks.scenarios import held_bytes, make_trainer
from tests.tiny import CONFIGS, tiny_model, with_lora

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SETTINGS: dict[str, Any] = {"max_steps": 1, "num_minibatches": 1, "num_iterations": 1, "prompts_per_step": 2}


def plan(model: Any, num_ranks: int = 1, device: torch.device = CPU, **settings: Any) -> Any:
    config = GRPOConfig(output_dir="unused", **settings).settings
    return plan_memory(model, config, planned_machine(config, num_ranks, device))


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", ["llama", "llama-tied", "qwen2"])
def test_the_plan_is_what_a_process_holds(tmp_path: Path, model: str, dtype: str, lora: bool) -> None:
    trainer = make_trainer(tmp_path, {**SETTINGS, "model": model, "dtype": dtype}, lora=lora)
    trainer.train()
    policy = trainer.parts.policy.policy_model
    found = plan_memory(trainer.model, trainer.parts.config, Machine(1, policy.device, policy.dtype)).parts
    for part, size in held_bytes(trainer).items():
        assert size == pytest.approx(found[part], rel=0.01, abs=256), (part, dict(found), held_bytes(trainer))


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, target_modules="all-linear")])
def test_shapes_alone_give_the_plan_of_the_model(tmp_path: Path, lora: Any) -> None:
    tiny_model("qwen2").save_pretrained(tmp_path)
    config = GRPOConfig(output_dir="unused").settings
    shapes = model_without_weights(str(tmp_path), config, lora)
    assert all(parameter.is_meta for parameter in shapes.parameters())
    real = tiny_model("qwen2") if lora is None else with_lora(tiny_model("qwen2"))
    assert WeightSizes.of(shapes) == WeightSizes.of(real)


def test_shards_divide_what_is_trained() -> None:
    model = tiny_model()
    alone, of_8 = (plan(model, n, GPU, shard="full", beta=0.0).parts for n in (1, 8))
    assert of_8["gradients"] == -(-alone["gradients"] // 8)
    assert of_8["optimizer"] == -(-alone["optimizer"] // 8)
    assert of_8["weights"] < alone["weights"]
    assert alone["float32 shards"] == 0 < of_8["float32 shards"]


def test_an_adapter_is_on_every_rank() -> None:
    model = with_lora(tiny_model())
    assert plan(model, 8, GPU, shard="full").parts["optimizer"] == plan(model, 1, GPU).parts["optimizer"]


def test_7b_fits_eight_cards_of_80_gb_in_shards_alone() -> None:
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    settings: dict[str, Any] = {"beta": 0.0, "gradient_checkpointing": True, "max_completion_length": 1024}
    assert plan(model, 8, GPU, shard="full", **settings).total_bytes < 75e9
    assert plan(model, 8, GPU, **settings).total_bytes > 130e9


def test_the_plan_names_estimates() -> None:
    text = str(plan(tiny_model(), 8, GPU, shard="full"))
    assert text.startswith("each of 8 ranks: ")
    assert "activations" in text.split("(estimate)")[0]
    assert str(plan(tiny_model())).startswith("the one rank: ")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_has_a_plan(name: str) -> None:
    """The record of every start holds one, whatever is trained."""
    assert plan(tiny_model(name)).total_bytes > 0
