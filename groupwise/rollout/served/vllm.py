"""vLLM's side of the conversation: which path, which body, what the answer holds.

What is used here has been the same in every stock server since 0.11 (weights of the whole model: 0.18).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groupwise.rollout.served.client import Client, ServerFailureError
from groupwise.types import Request

NO_LOGPROB = -9999.0
"""Stands for minus infinity: JSON has none."""
SHORT_S = 10.0
"""For questions that a server answers at once."""


@dataclass(frozen=True, slots=True)
class ServedChoice:
    """One completion as the server sends it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    stop_reason: int | str | None
    """The end token or the stop string; None where the length ended it."""
    prompt_ids: tuple[int, ...] | None


class VllmDialect:
    """What the engine asks of one server, in vLLM's words."""

    def __init__(self, client: Client, request_timeout_s: float) -> None:
        self.client, self._request_timeout_s = client, request_timeout_s

    def is_healthy(self) -> bool:
        """Raises ServerFailureError where nobody answers."""
        self.client.call("GET", "/health", timeout_s=SHORT_S)
        return True

    def version(self) -> str:
        return str(_of(self.client.call("GET", "/version", timeout_s=SHORT_S), "version"))

    def models(self) -> dict[str, Mapping[str, Any]]:
        """Name -> its card; the model that was started and every adapter."""
        cards = _of(self.client.call("GET", "/v1/models", timeout_s=SHORT_S), "data")
        return {str(card["id"]): card for card in cards}

    def paths(self) -> frozenset[str]:
        """The paths that the server has; empty where it does not list them."""
        try:
            return frozenset(_of(self.client.call("GET", "/openapi.json", timeout_s=SHORT_S), "paths"))
        except Exception:  # it may be switched off
            return frozenset()

    def metrics(self) -> str:
        return str(self.client.call("GET", "/metrics", timeout_s=SHORT_S))

    def tokenize(self, model: str, text: str) -> tuple[int, ...]:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return tuple(_of(self.client.call("POST", "/tokenize", body, timeout_s=SHORT_S), "tokens"))

    def generate(self, model: str, salt: str, request: Request, max_tokens: int, seed: int) -> list[ServedChoice]:
        """The completions of one request under the model or adapter of that name, in order; no prefix is shared with
        requests of another salt."""
        body = {**completion_body(request, max_tokens, seed), "model": model, "cache_salt": salt}
        answer = self.client.call(
            "POST", "/v1/completions", body, timeout_s=self._request_timeout_s, is_repeatable=True
        )
        choices = sorted(_of(answer, "choices"), key=lambda choice: int(choice["index"]))
        return [_choice(choice) for choice in choices]

    def prompt_logprobs(self, model: str, ids: Sequence[int], timeout_s: float) -> tuple[float, ...]:
        """The log-prob of every token of `ids` but the first. They are the model's own, at temperature 1, and never of
        a cached prefix."""
        body = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
        answer = self.client.call("POST", "/v1/completions", body, timeout_s=timeout_s)
        found = _of(_of(answer, "choices")[0], "prompt_logprobs")
        try:
            return tuple(float(each[str(i)]["logprob"]) for i, each in zip(ids[1:], found[1:], strict=True))
        except (KeyError, TypeError, ValueError) as error:
            raise ServerFailureError(f"its prompt_logprobs cannot be read: {error!r}") from None

    def top_logprobs(self, model: str, ids: Sequence[int], temperature: float, num: int) -> tuple[float, ...]:
        """The log-probs of the likeliest next tokens as the server reports them at that temperature, falling."""
        body = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": temperature, "seed": 1}
        answer = self.client.call(
            "POST", "/v1/completions", {**body, "top_p": 1.0, "top_k": 0, "logprobs": num}, timeout_s=60.0
        )
        found = _of(_of(answer, "choices")[0], "logprobs")["top_logprobs"][0]
        return tuple(sorted((float(value) for value in found.values()), reverse=True)[:num])

    def load_adapter(self, name: str, folder: str, timeout_s: float) -> None:
        body = {"lora_name": name, "lora_path": folder}
        self.client.call("POST", "/v1/load_lora_adapter", body, timeout_s=timeout_s)

    def unload_adapter(self, name: str) -> None:
        self.client.call("POST", "/v1/unload_lora_adapter", {"lora_name": name}, timeout_s=SHORT_S)

    def reload_weights(self, folder: str, timeout_s: float) -> None:
        """Every weight from a folder that was never read before; cached prefixes are forgotten."""
        body = {"method": "reload_weights", "kwargs": {"weights_path": folder}, "timeout": timeout_s}
        self.client.call("POST", "/collective_rpc", body, timeout_s=timeout_s)
        self.client.call("POST", "/reset_prefix_cache", timeout_s=SHORT_S)


def completion_body(request: Request, max_tokens: int, seed: int) -> dict[str, Any]:
    """One request, every field set that a server would fill in from elsewhere."""
    sampling = request.sampling
    return {
        "prompt": list(request.prompt_ids),
        "n": request.num_completions,
        "seed": seed,
        "max_tokens": max_tokens,
        "min_tokens": 0,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": sampling.repetition_penalty,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "logprobs": 0,
        "return_token_ids": True,
        "ignore_eos": True,
        "stop_token_ids": list(sampling.stop_ids),
        "stop": list(sampling.stop),
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "stream": False,
    }


def _choice(found: Mapping[str, Any]) -> ServedChoice:
    try:
        ids, logprobs = found["token_ids"], found["logprobs"]["token_logprobs"]
        prompt = found.get("prompt_token_ids")
        return ServedChoice(
            tuple(map(int, ids)),
            tuple(NO_LOGPROB if value is None else float(value) for value in logprobs),
            str(found["finish_reason"]),
            found.get("stop_reason"),
            None if prompt is None else tuple(prompt),
        )
    except (KeyError, TypeError) as error:
        raise ServerFailureError(f"a completion without its token ids or log-probs: {error!r}") from None


def _of(answer: Any, key: str) -> Any:
    if not isinstance(answer, Mapping) or key not in answer:
        raise ServerFailureError(f'an answer without "{key}": {str(answer)[:200]}')
    return answer[key]
