"""The reference of the KL term: the policy as it was handed in.

With a fresh adapter that is the base with adapters off, and costs no second copy. With an adapter that has already
learnt, under full fine-tuning, or once a sync or reset has happened, it is a frozen copy of the effective weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..algo import mix_reference
from .load import has_learnt_adapter
from .network import Network, Scoring, TokenScores
from .packing import Rows

Build = Callable[[nn.Module], Network]
"""How a frozen model becomes a network like the policy's."""


class Reference:
    """Scores completions under the reference weights."""

    def __init__(self, policy: Network, build: Build) -> None:
        self._policy = policy
        self._build = build
        self._frozen: Network | None = None
        if not hasattr(policy.model, "peft_config") or has_learnt_adapter(policy.model):
            self._freeze()

    @property
    def is_copy(self) -> bool:
        return self._frozen is not None

    def score(self, rows: Rows, scoring: Scoring) -> TokenScores:
        """Log-probs under the reference, without gradient."""
        if self._frozen is not None:
            return self._frozen.score(rows, scoring)
        with self._policy.adapters_off():
            return self._policy.score(rows, scoring)

    @torch.no_grad()
    def mix(self, alpha: float) -> None:
        """ref <- alpha policy + (1 - alpha) ref on effective weights (TR-DPO 2404.09656); alpha 1 is a hard reset."""
        if self._frozen is None:
            self._freeze(base_only=True)
        assert self._frozen is not None
        target = effective_model(self._policy.model).state_dict()
        mine = self._frozen.model.state_dict()
        floating = {name: w for name, w in target.items() if w.is_floating_point()}
        mixed = mix_reference({name: mine[name] for name in floating}, floating, alpha)
        self._take(mixed)

    def state_dict(self) -> dict[str, Tensor]:
        """The frozen copy's weights; empty while the reference is the base."""
        return {} if self._frozen is None else dict(self._frozen.model.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if not state:
            return
        if self._frozen is None:
            self._freeze(base_only=True)
        self._take(state)

    def _freeze(self, *, base_only: bool = False) -> None:
        self._hold(effective_model(self._policy.model, with_adapters=not base_only).requires_grad_(False))

    def _take(self, state: Mapping[str, Tensor]) -> None:
        assert self._frozen is not None
        self._frozen.model.load_state_dict(state, strict=False)
        self._hold(self._frozen.model)

    def _hold(self, frozen: nn.Module) -> None:
        """A network over the weights as they are now: one that exists reads frozen weights only once."""
        self._frozen = self._build(frozen)
        self._frozen.refresh()


@torch.no_grad()
def effective_model(model: nn.Module, *, with_adapters: bool = True) -> nn.Module:
    """A copy of the model with its adapters multiplied out into the weights (or left out), in the dtype of the base.

    float32 copies are exact to rounding; lower ones are raised to float32 first, so that no small update is lost.
    """
    clone: Any = copy.deepcopy(model)
    clone.requires_grad_(False)
    if not hasattr(clone, "peft_config"):
        return clone  # type: ignore[no-any-return]
    clone = clone.float()
    return clone.merge_and_unload() if with_adapters else clone.unload()  # type: ignore[no-any-return]
