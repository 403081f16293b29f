"""Runs whose policy says what a test types in: it calls tools, and the trainer around it is the real one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_bridge import tokenizer_of
from tiny import tiny_model

from groupwise.rollout.scripted import ScriptedEngine
from groupwise.trl import GRPOConfig, GRPOTrainer
from groupwise.types import Request

ASKED = [{"prompt": [{"role": "user", "content": f"What is {n} x 4?"}], "factor": n} for n in range(1, 5)]
SETTINGS: dict[str, Any] = {
    "max_steps": 1, "per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 400,
    "use_cpu": True, "bf16": False, "logging_steps": 1, "save_strategy": "no", "guards": "off",
}  # fmt: skip


def call(name: str, **arguments: Any) -> str:
    """A call of a tool, as the policy writes it."""
    import json

    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


Speech = Callable[[int, int], str] | Sequence[str]
"""(number of the completion in its group, turn) -> its text; or a text for each turn, the last one again and again."""


def speaking(monkeypatch: pytest.MonkeyPatch, tokenizer: Any, speech: Speech) -> ScriptedEngine:
    """Let every trainer sample these words."""
    if not callable(speech):
        texts = list(speech)
        speech = lambda index, turn: texts[min(turn, len(texts) - 1)]  # noqa: E731
    say = speech

    def script(request: Request, index: int) -> list[int]:
        number, turn = (index, 0) if len(request.seed) < 4 else (request.seed[3], (*request.seed, 0)[4])
        return [*tokenizer.encode(say(number, turn), add_special_tokens=False), tokenizer.eos_token_id]

    engine = ScriptedEngine(script)
    monkeypatch.setattr("groupwise.lifecycle.build.make_engine", lambda policy, config: engine)
    return engine


def agent_trainer(folder: Path, speech: Speech, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> GRPOTrainer:
    """A trainer in TRL's words; what is not given has a default, `args` changes the configuration."""
    tokenizer = tokenizer_of("chatml")
    speaking(monkeypatch, tokenizer, speech)
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": None, "bos_token_id": None}
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=2048, **special)
    args = GRPOConfig(output_dir=str(folder), **{**SETTINGS, **arguments.pop("args", {})})
    given = {"train_dataset": ASKED, "processing_class": tokenizer, **arguments}
    return GRPOTrainer(model=model, args=args, **given)
