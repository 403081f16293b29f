"""Prompts that fit the model: encoded, within its context, its rotation and its vocabulary, or refused."""

from __future__ import annotations

from typing import Any

from torch import nn

from groupwise.chat import beyond_embedding
from groupwise.config import Settings
from groupwise.data import prepare
from groupwise.data.files import place_in
from groupwise.data.prepare import PreparedProblems, ShowTools
from groupwise.data.problems import Problems
from groupwise.errors import ConfigError, DataError, ModelError
from groupwise.policy.bounds import context_length, num_embeddings, num_logits, rotation_bound


def check_head(model: nn.Module) -> None:
    """Raise `ModelError` where the model can sample an id that it cannot read."""
    read, sampled = num_embeddings(model), num_logits(model)
    if sampled > read:
        raise ModelError(
            f"The model's head has {sampled} rows and its embedding {read}, so it can sample tokens that it cannot "
            f"read. Give both one size: model.resize_token_embeddings({sampled})."
        )


def prepare_problems(
    problems: Problems,
    policy_tokenizer: Any,
    model: nn.Module,
    config: Settings,
    show_tools: ShowTools | None = None,
) -> PreparedProblems:
    """Encoded prompts that fit the model's context together with their completions."""
    prepared = prepare(
        problems,
        policy_tokenizer,
        max_prompt_length=config.max_prompt_length,
        overlong=config.overlong_prompts,
        system_prompt=config.system_prompt,
        chat_template_kwargs=config.chat_template_kwargs,
        show_tools=show_tools,
    )
    check_ids(prepared, policy_tokenizer, model)
    context = context_length(model.config)
    if context is not None and config.max_completion_length >= context:
        raise ConfigError(
            f"max_completion_length {config.max_completion_length} leaves no room for a prompt: the model's context is "
            f"{context} tokens. Set max_completion_length lower."
        )
    needed = prepared.max_prompt_tokens + config.max_completion_length
    if context is not None and needed > context:
        raise ConfigError(
            f"The longest prompt ({prepared.max_prompt_tokens} tokens) and max_completion_length "
            f"{config.max_completion_length} need {needed} tokens, but the model's context is {context}. "
            f"Set max_prompt_length to {context - config.max_completion_length} or less."
        )
    _check_rotation(prepared, model, config)
    return prepared


def _check_rotation(prepared: PreparedProblems, model: nn.Module, config: Settings) -> None:
    """Refuse completions that grow past the length at which the model's rotation becomes another one."""
    kind, bound = rotation_bound(model.config) or ("", None)
    longest = prepared.max_prompt_tokens + config.max_completion_length
    if bound is None or longest <= bound or prepared.min_prompt_tokens > bound:
        return
    raise ConfigError(
        f"The model's rotation ({kind}) changes beyond {bound} tokens, so a completion that crosses them is sampled "
        f"under one rotation and scored under another. The longest prompt ({prepared.max_prompt_tokens} tokens) and "
        f"max_completion_length {config.max_completion_length} need {longest} tokens. Let max_prompt_length and "
        f"max_completion_length add up to {bound} or less, or train on prompts that are all longer than that."
    )


def check_ids(prepared: PreparedProblems, tokenizer: Any, model: nn.Module) -> None:
    """Raise `DataError` for a prompt with a token that the model's embedding has no row for."""
    size = num_embeddings(model)
    if (found := prepared.find_id(size)) is not None:
        row, token_id = found
        problems = prepared.problems
        where = place_in(problems.name, problems[row].place)
        raise DataError(f"{where}: {beyond_embedding(tokenizer, token_id, size)}")
