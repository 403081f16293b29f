"""Token-by-token decoding through a model's own `forward`, and the choice of a mode that is exact.

Caches of transformers' models have different names, some need the positions of the new tokens, and some give other
numbers than a pass over the whole text. So a model is tried on a few texts first, and a mode that agrees is used.

Shapes: R texts that grow together, T tokens of a text, V vocabulary; N rows of a learner's pass.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from groupwise.errors import ModelError, words_of
from groupwise.policy.deterministic import deterministic
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import Scoring, plain_scores
from groupwise.policy.quantized import about_outliers
from groupwise.policy.truncated_model import truncate_layers

CACHES = ("past_key_values", "cache_params", "state")
"""Names under which a causal language model gives its cache and takes it back: attention's, Mamba's, RWKV's."""
TOLERANCE = {torch.float32: 1e-4}
"""Largest difference of a log-prob between two modes."""
LOW_TOLERANCE = 0.25
"""The same where it cannot be run in float32."""


@dataclass(frozen=True, slots=True)
class ForwardMode:
    """How a model reads the next tokens of its texts."""

    has_cache: bool = True
    """Without it, every token reads the whole text."""
    gives_positions: bool = False


FORWARD_MODES = (ForwardMode(), ForwardMode(gives_positions=True), ForwardMode(has_cache=False))


class GrowingTexts:
    """Texts of equal length that grow together."""

    def __init__(self, model: Any, mode: ForwardMode, text_RT: Tensor) -> None:
        self._model, self._mode, self._text_RT = model, mode, text_RT
        self._cache: dict[str, Any] = {}
        self._num_cached = 0

    def next_logits(self) -> Tensor:
        """Logits RV of each text's next token, in float32."""
        ids_RT = self._text_RT[:, self._num_cached :]
        given = dict(self._cache)
        if self._mode.gives_positions:
            positions_T = torch.arange(self._num_cached, self._text_RT.shape[1], device=ids_RT.device)
            given["position_ids"] = positions_T.expand(ids_RT.shape)
        output = self._model(input_ids=ids_RT, use_cache=self._mode.has_cache, **given)
        if self._mode.has_cache:
            self._cache = {name: output[name] for name in CACHES if output.get(name) is not None}
        if self._cache:
            self._num_cached = self._text_RT.shape[1]
        return output.logits[:, -1].float()  # type: ignore[no-any-return]

    def append(self, token_R: Tensor) -> None:
        self._text_RT = torch.cat([self._text_RT, token_R[:, None]], dim=1)


def choose_forward_mode(model: nn.Module) -> ForwardMode:
    """The first mode that gives the log-probs of the learner's pass over whole texts.

    A model of many layers is tried with a few of them first: the whole of it can be slow.

    Raises:
        ModelError: the learner's pass fails, is random or looks ahead, so no mode can sample the model.
    """
    with contextlib.suppress(Exception):  # a model that cannot be cut is tried as it is
        return _choose(_in_float32(truncate_layers(model)))
    return _choose(_in_float32(model))


def _in_float32(model: nn.Module) -> nn.Module:
    if all(p.dtype == torch.float32 for p in model.parameters()):
        return model
    with contextlib.suppress(Exception):  # quantized weights
        return copy.deepcopy(model).float()
    return model


def _choose(model: nn.Module) -> ForwardMode:
    rows = _texts(model)
    dtype = next(model.parameters()).dtype
    with deterministic(model):
        whole_NT = _score(model, rows)
        if not bool(whole_NT.isfinite().all()):
            return FORWARD_MODES[0]  # sampling reports where that begins
        for mode in FORWARD_MODES:
            if _gap(model, mode, rows, whole_NT) <= TOLERANCE.get(dtype, LOW_TOLERANCE):
                return mode
        raise ModelError(_why_no_mode(model, rows, whole_NT))


def _texts(model: nn.Module) -> CompletionRows:
    """Two groups of two texts each, of arbitrary ids."""
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    ids = torch.randint(vocabulary // 8, vocabulary, (2, 32), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [tuple(ids[0][:9])] * 2 + [tuple(ids[0][9:11])] * 2
    completions = [tuple(own[first:last]) for first, last in ((11, 24), (24, 31)) for own in ids]
    return CompletionRows(prompts, completions, [0, 0, 1, 1])


def _score(model: Any, rows: CompletionRows) -> Tensor:
    """Log-probs NT by a pass of the learner, with its gradient where anything is trained."""
    trained = [p for p in model.parameters() if p.requires_grad][:1]
    try:
        with torch.enable_grad():
            logprob_NT = plain_scores(model, torch.float32, rows, Scoring()).logprob_NT
            if trained:
                torch.autograd.grad(logprob_NT.sum(), trained, allow_unused=True)
    except Exception as error:  # a foreign architecture fails in as many ways as there are
        raise ModelError(
            f"{type(model).__name__} cannot be trained: a pass over a few short texts fails with "
            f"{type(error).__name__}: {words_of(error)}"
        ) from error
    return logprob_NT.detach()


@torch.no_grad()
def _gap(model: Any, mode: ForwardMode, rows: CompletionRows, whole_NT: Tensor) -> float:
    """Largest difference of a log-prob from that of a whole pass; infinite where the mode fails."""
    gap = 0.0
    for run in rows.runs():
        prompts_RT, tokens_RT = (
            torch.tensor([part[row] for row in run], device=whole_NT.device)
            for part in (rows.prompt_ids, rows.token_ids)
        )
        texts = GrowingTexts(model, mode, prompts_RT)
        for place, token_R in enumerate(tokens_RT.T):
            try:
                log_p_RV = texts.next_logits().log_softmax(-1)
            except Exception:  # as above
                return float("inf")
            gap = max(gap, float((log_p_RV.gather(1, token_R[:, None])[:, 0] - whole_NT[run, place]).abs().max()))
            texts.append(token_R)
    return gap


def _why_no_mode(model: Any, rows: CompletionRows, whole_NT: Tensor) -> str:
    name = type(model).__name__
    if (gap := float((_score(model, rows) - whole_NT).abs().max())) > 0:
        return (
            f"Two passes of {name} over the same tokens differ by {gap:.2g} in a log-prob: something in it is random "
            "outside of training mode too. Switch that off."
        )
    gap = _gap(model, FORWARD_MODES[-1], rows, whole_NT)
    return (
        f"{name} is no causal language model: the log-prob of a token changes by {gap:.2g} with the tokens that follow "
        "it, or that stand in other texts."
        + (about_outliers(model) or " Give a decoder; some configurations need is_decoder: true.")
    )
