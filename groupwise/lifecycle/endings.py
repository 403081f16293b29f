"""Checks before the first step that completions can end: end tokens that are missing or never sampled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from groupwise.chat import decode_completion, turn_ends
from groupwise.config import Settings
from groupwise.data.prepare import PreparedProblems
from groupwise.policy.bounds import num_logits

if TYPE_CHECKING:
    from groupwise.policy.bundle import PolicyBundle

_log = logging.getLogger(__name__)


def remark_on_endings(policy: PolicyBundle, problems: PreparedProblems, config: Settings) -> None:
    """Remark on end tokens that cannot be sampled, on a model without one, and on turns that end in another token."""
    size, tokenizer = num_logits(policy.model), policy.tokenizer
    sampled = [token_id for token_id in policy.stop_ids if token_id < size]
    for token_id in policy.stop_ids:
        if token_id >= size:
            text = decode_completion(tokenizer, [token_id], skip_special_tokens=False)
            _log.warning(
                f"The end token {text!r} (id {token_id}) is never sampled: the model's head has {size} rows. "
                "Take the model's own tokenizer, or call model.resize_token_embeddings(len(tokenizer))."
            )
    if not sampled and not config.stop:
        _log.warning(
            "The model has no end token, so every completion runs to max_completion_length "
            f"({config.max_completion_length} tokens). Name one: stop: [TEXT] in the configuration, "
            "tokenizer.eos_token, or generation_config.eos_token_id of the model."
        )
    elif (end := _other_turn_end(sampled, tokenizer, problems, config)) is not None:
        _log.warning(
            f"The chat template ends the assistant's turns with {end!r}, which is no end token of this model, so "
            f"completions go on after it. Set stop: [{end!r}] to end them there."
        )


def _other_turn_end(
    stop_ids: Sequence[int], tokenizer: Any, problems: PreparedProblems, config: Settings
) -> str | None:
    """The token that the chat template ends a turn with, where completions do not end at it."""
    if isinstance(problems.problems[0].prompt, str):
        return None
    ends = turn_ends(tokenizer, config.chat_template_kwargs)
    if set(ends.values()) & set(stop_ids) or any(text in stop for text in ends for stop in config.stop):
        return None
    return next(iter(ends), None)
