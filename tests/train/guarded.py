"""What the tests of the guards share: a reward, the events, an engine that does wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from groupwise.config.guards import GUARDS
from groupwise.rollout.native import NativeEngine
from groupwise.runs.reader import RunReader
from groupwise.types import Completion


def letters(completions: list[str], **columns: Any) -> list[float]:
    """A reward that differs between almost any two completions."""
    return [float(sum(map(ord, completion)) % 17) for completion in completions]


def said(folder: Path, kind: str = "guard") -> list[dict[str, Any]]:
    """The events of guards, or of another kind."""
    return [event for event in RunReader(folder).events() if event["kind"] == kind]


def only(name: str, **keys: Any) -> dict[str, Any]:
    """Every guard off but one."""
    return {**{guard.name: "off" for guard in GUARDS}, name: {"steps": 1, **keys}}


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


def sabotage(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, Completion], Completion]) -> None:
    """The engine's completions are changed, given how many steps were taken."""
    generate = NativeEngine.generate

    def changed(self: NativeEngine, requests: Any) -> Any:
        for number, found in generate(self, requests):
            yield number, [change(self.version, c) for c in found]

    monkeypatch.setattr(NativeEngine, "generate", changed)
