"""An engine is closed when training, evaluation or a check ends, and serves again after the next `load_weights`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from api_helpers import trainer
from tiny import tiny_model

from groupwise.policy.fused_model import FusedModel
from groupwise.rollout.native import NativeEngine
from groupwise.types import Request, Sampling


def test_training_and_evaluation_close_the_engine_and_both_can_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    monkeypatch.setattr(NativeEngine, "close", lambda self: closed.append(self.version))
    run = trainer(tmp_path / "run", max_steps=1)
    run.train()
    assert closed == [1]
    run.evaluate([{"prompt": "abc"}])
    assert closed == [1, 1]


def test_an_error_closes_the_engine_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    monkeypatch.setattr(NativeEngine, "close", lambda self: closed.append(self.version))
    run = trainer(tmp_path / "run", max_steps=1)

    def fail(*_: object) -> None:
        raise MemoryError("planted")

    monkeypatch.setattr(NativeEngine, "generate", fail)
    with pytest.raises(MemoryError, match="planted"):
        run.train()
    assert closed == [0]


def test_a_closed_engine_samples_the_same_again() -> None:
    engine = NativeEngine(FusedModel(tiny_model(), torch.float32), records=True)
    request = Request((3, 4, 5), 3, Sampling(max_tokens=6), seed=(1,))
    answers = []
    for version in (0, 0):
        engine.load_weights(None, version)
        answers.append(list(engine.generate([request])))
        engine.close()
        assert engine.decoder is not None
        assert engine.decoder.grids == {}
    assert answers[0] == answers[1]
