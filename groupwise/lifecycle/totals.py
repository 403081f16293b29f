"""Counters of the whole run: epochs, tokens, optimizer steps, memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from groupwise.data import Order
from groupwise.lifecycle.callbacks import Callbacks
from groupwise.train.ahead import Ahead
from groupwise.train.step import Idle, StepRecord
from groupwise.train.step_metrics import num_tokens
from groupwise.world import peak_memory_bytes


class Totals(Idle):
    """Adds every step to the counters, and moves the state that callbacks read to that step."""

    def __init__(self, order: Order | Ahead, callbacks: Callbacks, device: torch.device) -> None:
        self._order, self._callbacks, self._device = order, callbacks, device
        self.num_tokens = 0
        self.num_updates = 0

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        assert record.result is not None, "a step is counted in the process that took it"
        self.num_tokens += num_tokens(record.groups)
        self.num_updates += record.result.update.num_updates
        state = self._callbacks.state
        state.global_step, state.epoch = record.step, self._order.epoch
        state.num_input_tokens_seen = self.num_tokens
        return {
            "epoch": self._order.epoch,
            "num_tokens": self.num_tokens,
            "updates": self.num_updates,
            "policy_version": record.step,
            "memory_peak_bytes": peak_memory_bytes(self._device),
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"num_tokens": self.num_tokens, "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.num_tokens, self.num_updates = state["num_tokens"], state["num_updates"]
