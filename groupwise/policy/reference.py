"""The reference of the KL term: the policy as it was handed in.

Under a fresh LoRA adapter that is the policy with its adapter switched off. In every other case it is a frozen copy,
which shares with the policy what is not trained. Once a sync or reset has happened, it is a copy of effective weights.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from groupwise.algo import mix_reference
from groupwise.errors import ModelError
from groupwise.policy.adapter import base_of, has_adapter, starts_as_base, why_not_merged
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import PolicyModel, Scoring, TokenScores

Build = Callable[[nn.Module], PolicyModel]
"""Wraps a frozen model as the policy is wrapped."""


class Reference:
    """Scores completions under the reference weights."""

    def __init__(self, policy: PolicyModel, build: Build) -> None:
        self._policy = policy
        self._build = build
        self._frozen: PolicyModel | None = None
        self._is_mixed = False
        """Whether the frozen copy holds effective weights, under the names of the base."""
        self._own: tuple[str, ...] = ()
        """Parameters of the frozen copy that it does not share with the policy."""
        if not starts_as_base(policy.model):
            self._own = tuple(name for name, p in policy.model.named_parameters() if p.requires_grad)
            self._set_frozen(frozen_copy(policy.model))

    @property
    def is_copy(self) -> bool:
        return self._frozen is not None

    @property
    def own_model(self) -> nn.Module | None:
        """The frozen copy; None while the reference is the policy without its adapter."""
        return None if self._frozen is None else self._frozen.model

    def score(self, rows: CompletionRows, scoring: Scoring) -> TokenScores:
        """Log-probs under the reference, without gradient."""
        if self._frozen is not None:
            return self._frozen.score(rows, scoring)
        with self._policy.adapters_off():
            return self._policy.score(rows, scoring)

    @torch.no_grad()
    def mix(self, alpha: float) -> None:
        """ref <- alpha policy + (1 - alpha) ref on effective weights (TR-DPO 2404.09656); alpha 1 is a hard reset."""
        mine = self._effective().state_dict()
        target = effective_model(self._policy.model).state_dict()
        floating = {name: w for name, w in target.items() if w.is_floating_point()}
        self._take(mix_reference({name: mine[name] for name in floating}, floating, alpha))

    def state_dict(self) -> dict[str, Tensor]:
        """Weights that only the frozen copy has; empty while the reference is the policy without its adapter."""
        if self._frozen is None:
            return {}
        state = self._frozen.model.state_dict()
        return dict(state) if self._is_mixed else {name: state[name] for name in self._own}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if not state:
            return
        if self._is_mixed or set(state) - set(self._own):
            self._effective()
        self._take(state)

    def _effective(self) -> nn.Module:
        """The frozen copy, with effective weights of its own from now on."""
        if not self._is_mixed:
            is_handed_in = self._frozen is not None
            source = self._frozen.model if self._frozen is not None else self._policy.model
            self._is_mixed = True
            self._set_frozen(effective_model(source, with_adapters=is_handed_in))
        assert self._frozen is not None
        return self._frozen.model

    def _take(self, state: Mapping[str, Tensor]) -> None:
        assert self._frozen is not None
        self._frozen.model.load_state_dict(state, strict=False)
        self._set_frozen(self._frozen.model)

    def _set_frozen(self, frozen: nn.Module) -> None:
        """Wrap the weights as they are now: an existing wrapper reads frozen weights only once."""
        self._frozen = self._build(frozen)
        self._frozen.refresh()


def frozen_copy(model: nn.Module) -> nn.Module:
    """The model as it is now: its trained parameters are copied, the others are the same tensors."""
    memo: dict[int, Any] = {id(p): p for p in model.parameters() if not p.requires_grad}
    return copy.deepcopy(model, memo).requires_grad_(False)


@torch.no_grad()
def effective_model(model: nn.Module, *, with_adapters: bool = True) -> nn.Module:
    """A copy of the model with its adapter multiplied out into the weights (or left out), in the dtype of the base.

    float32 copies are exact to rounding; lower ones are raised to float32 first, so that no small update is lost.

    Raises:
        ModelError: this kind of adapter cannot be multiplied out.
    """
    clone: Any = copy.deepcopy(model)
    clone.requires_grad_(False)
    if not has_adapter(clone):
        return clone  # type: ignore[no-any-return]
    if with_adapters:
        require_mergeable(clone)
    clone = clone.float()
    _untie(clone)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*(tie_word_embeddings|no longer tied)")  # as it has to be
        plain = clone.merge_and_unload() if with_adapters else clone.unload()
    _record_tie(plain)
    return plain  # type: ignore[no-any-return]


def require_mergeable(model: nn.Module) -> None:
    """Raise `ModelError` where an adapter cannot be multiplied into the weights of its base."""
    if has_adapter(model) and (why := why_not_merged(model)) is not None:
        raise ModelError(
            f"The adapter cannot be merged into its base ({why}). Export it without --merge, and leave sync_ref_model "
            "off, which mixes merged weights."
        )


def _untie(model: nn.Module) -> None:
    """Give an output layer its own weight where the adapter covers it or the embedding that it shares one with."""
    ends = _ends(base_of(model))
    inner = [_innermost(end) for end in ends]
    if ends != inner and inner[0].weight is inner[1].weight:
        inner[1].weight = nn.Parameter(inner[1].weight.detach().clone(), requires_grad=False)


def _record_tie(model: Any) -> None:
    """Let the config of a merged model name its output layer tied only where it still is."""
    ends = _ends(model)
    if ends and ends[0].weight is not ends[1].weight:
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False


def _ends(model: Any) -> list[Any]:
    """Embedding and output layer, where the model has both."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [] if any(end is None for end in ends) else ends


def _innermost(layer: Any) -> Any:
    """The user's own layer under everything that peft has put around it."""
    while True:
        inner = getattr(layer, "base_layer", None) or getattr(layer, "original_module", None)
        if inner is None:
            return layer
        layer = inner
