"""Checks what a server sends before anything is made of it: a completion that is not whole is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from groupwise.rollout.served.client import ServerFailureError
from groupwise.rollout.served.vllm import NO_LOGPROB, ServedChoice
from groupwise.rollout.stop_strings import ends_in_stop_string
from groupwise.types import Completion, Request, StopReason


def completions_of(
    choices: Sequence[ServedChoice], request: Request, max_tokens: int, vocabulary: int, version: int
) -> list[Completion]:
    """The completions of a request.

    Raises:
        ServerFailureError: one of them is not what was asked for, with the reason.
    """
    if len(choices) != request.num_completions:
        raise ServerFailureError(f"{len(choices)} completions of {request.num_completions}")
    return [_completion(choice, request, max_tokens, vocabulary, version) for choice in choices]


def _completion(choice: ServedChoice, request: Request, max_tokens: int, vocabulary: int, version: int) -> Completion:
    problem = _problem(choice, request, max_tokens, vocabulary)
    if problem is not None:
        raise ServerFailureError(problem)
    ids, reason = _cut(choice, request)
    return Completion(ids, choice.logprobs[: len(ids)], reason, version)


def _problem(choice: ServedChoice, request: Request, max_tokens: int, vocabulary: int) -> str | None:
    """What is wrong with it, in words."""
    ids, logprobs = choice.token_ids, choice.logprobs
    if not ids:
        return "an empty completion"
    if choice.prompt_ids is not None and choice.prompt_ids != request.prompt_ids:
        return "a completion of another prompt"
    if len(ids) != len(logprobs) or len(ids) > max_tokens:
        return f"{len(ids)} tokens with {len(logprobs)} log-probs, of at most {max_tokens}"
    if any(not 0 <= token < vocabulary for token in ids):
        return f"token {max(ids)} of a vocabulary of {vocabulary}: the server has another tokenizer or model"
    if any(not math.isfinite(value) or value <= NO_LOGPROB or value > 1e-3 for value in logprobs):
        return f"a log-prob that is none ({next(v for v in logprobs if not NO_LOGPROB < v <= 1e-3)})"
    return _wrong_end(choice, request.sampling, max_tokens)


def _wrong_end(choice: ServedChoice, sampling: Any, max_tokens: int) -> str | None:
    """Whether its last token and the reason why it ended contradict each other."""
    last, reason = choice.token_ids[-1], choice.finish_reason
    is_end_token = last in sampling.stop_ids
    if any(token in sampling.stop_ids for token in choice.token_ids[:-1]):
        return "a completion that goes on after an end token"
    if reason == "length":
        return None if len(choice.token_ids) == max_tokens else f"cut off after {len(choice.token_ids)} tokens"
    if reason != "stop":
        return f"a completion that ended by {reason!r}"
    if isinstance(choice.stop_reason, str) and choice.stop_reason in sampling.stop:
        return None
    if is_end_token:
        return None
    return (
        f"a completion that ended with token {last} ({choice.stop_reason!r}), which is no end token of this run: the "
        "server adds some of its own (start it with --generation-config vllm)"
    )


def _cut(choice: ServedChoice, request: Request) -> tuple[tuple[int, ...], StopReason]:
    """Its tokens up to the first stop string as every other engine finds it, and why it ended."""
    sampling, ids = request.sampling, choice.token_ids
    if sampling.stop:
        for length in range(1, len(ids) + 1):
            if ids[length - 1] not in sampling.stop_ids and ends_in_stop_string(request, ids[:length]):
                return ids[:length], "stop_string"
    if ids[-1] in sampling.stop_ids:
        return ids, "stop"
    return ids, "stop_string" if choice.finish_reason == "stop" else "length"
