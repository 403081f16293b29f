"""The limits that follow from a GPU's memory, and runs that are too large for it; every device here is this CPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import trainer
from tiny import tiny_model, with_lora

from groupwise.config import GRPOConfig
from groupwise.errors import ConfigError
from groupwise.lifecycle import build, fit_memory
from groupwise.lifecycle.fit_memory import LEAST_CONCURRENT, LEAST_TOKENS, SHARE, fitting_limits
from groupwise.lifecycle.memory_plan import plan_memory, planned_machine
from groupwise.policy.compute_limits import ComputeLimits

GPU = torch.device("cuda")
MIB = 2**20


def settings(**changes: Any) -> Any:
    return GRPOConfig(output_dir="unused", **changes).settings


def fitted(memory: int | None, **changes: Any) -> tuple[ComputeLimits, int]:
    """ComputeLimits, and the bytes of the plan with them."""
    config, model = settings(**changes), with_lora(tiny_model())
    machine = planned_machine(config, 1, GPU)
    limits = fitting_limits(model, config, machine, memory)
    return limits, plan_memory(model, config, machine, limits).total_bytes


def test_a_device_whose_memory_is_not_planned_for_has_the_limits_of_its_kind() -> None:
    assert fitted(None)[0] == ComputeLimits.of(GPU)
    assert fit_memory.device_memory(torch.device("cpu")) is None


def test_less_memory_means_smaller_passes_and_the_plan_stays_within_its_share() -> None:
    tokens = []
    for memory in (1024 * MIB, 64 * MIB, 32 * MIB, 16 * MIB):
        limits, size = fitted(memory)
        tokens.append(limits.most_tokens)
        assert size <= SHARE * memory or limits.most_tokens == LEAST_TOKENS
        assert limits.least_tokens <= limits.most_tokens
    assert tokens[0] == ComputeLimits.of(GPU).most_tokens
    assert tokens == sorted(tokens, reverse=True)
    assert tokens[-1] < tokens[0]


def test_completions_of_a_step_decode_together_where_their_caches_fit() -> None:
    step = {"prompts_per_step": 25, "num_generations": 8, "max_completion_length": 400}
    assert fitted(1024 * MIB, **step)[0].concurrent == 256
    assert fitted(1024 * MIB, prompts_per_step=1, num_generations=2)[0].concurrent == 64
    assert fitted(1024 * MIB, prompts_per_step=500)[0].concurrent == fit_memory.MOST_CONCURRENT
    little = fitted(24 * MIB, **step)[0].concurrent
    assert LEAST_CONCURRENT <= little < 256


@pytest.mark.parametrize(
    ("memory", "changes", "remedy"),
    [
        (14 * MIB, {"micro_batch_tokens": 100_000}, "micro_batch_tokens: "),
        (9 * MIB // 2, {}, "gradient_checkpointing: true"),
        (1 * MIB, {}, "a smaller model, or an adapter"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_with_what_would(monkeypatch, memory, changes, remedy) -> None:
    config, model = settings(**changes), tiny_model()
    machine = planned_machine(config, 1, GPU)
    with pytest.raises(ConfigError, match=f"does not fit into this GPU: it has .* GiB, and .*{remedy}") as found:
        fit_memory._require(model, config, machine, memory)
    named = dict(re.findall(r"(\w+): ([\w]+)", str(found.value).partition("would fit: ")[2]))
    if named:
        fit_memory._require(model, settings(**{**changes, **named}), machine, memory)


@pytest.mark.parametrize("is_named", [True, False], ids=["by name", "a model object"])
def test_it_is_refused_before_a_weight_is_loaded(tmp_path: Path, monkeypatch: Any, is_named: bool) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    model = str(tmp_path / "model") if is_named else tiny_model()
    monkeypatch.setattr(fit_memory, "device_memory", lambda device: MIB)
    monkeypatch.setattr(build, "load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError, match="does not fit into this GPU"):
        trainer(tmp_path / "run", model=model)


def test_a_run_takes_the_limits_of_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_memory, "device_memory", lambda device: 64 * MIB)
    run = trainer(tmp_path, max_steps=1)
    limits = run.parts.policy.policy_model.limits
    assert limits.concurrent == run.parts.engine._max_rows == 64
    run.train()
