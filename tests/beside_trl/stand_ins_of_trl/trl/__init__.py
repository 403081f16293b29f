"""Where TRL is not installed: an object of TRL that programs keep beside groupwise's trainer."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


class BEMACallback(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by the type checker
    """Counts the steps in which it would have averaged the weights."""

    def __init__(self, update_freq: int = 400) -> None:
        self.update_freq, self.num_updates = update_freq, 0

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.num_updates += state.global_step % self.update_freq == 0
