"""Client of a server with OpenAI's chat interface: retries while it is busy, and counts tokens."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from groupwise.errors import RewardError

if TYPE_CHECKING:
    from tenacity import RetryCallState

BUSY = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""Status codes after which a retry can help."""

REFUSED = {401, 403, 404, 405}
"""Status codes that every request would get: the key, the model or the address is wrong."""

LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class LlmReply:
    """The reply to one request."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class NoReplyError(Exception):
    """One request got no reply; others may."""


class BusyError(Exception):
    """A retry can help; `wait_s` are the seconds that the server names, if it does."""

    def __init__(self, problem: str, wait_s: float | None = None) -> None:
        super().__init__(problem)
        self.wait_s = wait_s


@dataclass
class Endpoint:
    """One address. `num_retries`: retries of one request at most; waits double from `first_wait_s`."""

    base_url: str
    timeout_s: float
    num_retries: int
    api_key: str | None = field(default=None, repr=False)
    first_wait_s: float = 0.5
    _random: random.Random = field(default_factory=random.Random, repr=False)

    async def ask(self, client: Any, body: Mapping[str, Any]) -> LlmReply:
        """The reply to a chat request.

        Raises:
            NoReplyError: busy or unreachable to the end, this request refused, or no text in the reply.
            RewardError: every request would be refused.
        """
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(BusyError),
            stop=stop_after_attempt(self.num_retries + 1),
            wait=self._wait_s,
            reraise=True,
        )
        try:
            return await retrying(self._try, client, body)
        except BusyError as error:
            raise NoReplyError(f"{error}, {self.num_retries + 1} times") from None

    async def _try(self, client: Any, body: Mapping[str, Any]) -> LlmReply:
        """The reply to one attempt; `BusyError` where another one can help."""
        import httpx

        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        try:
            response = await client.post(
                f"{self.base_url}/chat/completions", json=dict(body), headers=headers, timeout=self.timeout_s
            )
        except httpx.TransportError as error:
            raise BusyError(f"{type(error).__name__} {self._without_key(str(error))}".strip()) from None
        if response.status_code == 200:
            return _read(response)
        problem = self._without_key(f"status {response.status_code}: {' '.join(response.text.split())[:200]}")
        if response.status_code in REFUSED:
            raise RewardError(
                f"The judge at {self.base_url} refuses: {problem} Check base_url, llm and the variable of api_key_env."
            )
        if response.status_code not in BUSY:
            raise NoReplyError(problem)
        raise BusyError(problem, _retry_after(response.headers.get("retry-after")))

    def _wait_s(self, attempts: RetryCallState) -> float:
        """Seconds as the server names them, else twice as long each time, half of it random so that callers spread."""
        error = None if attempts.outcome is None else attempts.outcome.exception()
        if isinstance(error, BusyError) and error.wait_s is not None:
            return error.wait_s
        longest = min(self.first_wait_s * 2.0 ** (attempts.attempt_number - 1), LONGEST_WAIT_S)
        return longest * (0.5 + 0.5 * self._random.random())

    def _without_key(self, text: str) -> str:
        return text.replace(self.api_key, "***") if self.api_key else text


def _read(response: Any) -> LlmReply:
    try:
        content = response.json()
        text = content["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise NoReplyError("a reply that is not of OpenAI's chat form") from error
    if not isinstance(text, str):
        raise NoReplyError("an empty reply")
    usage = content.get("usage") or {}
    return LlmReply(text, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))


def _retry_after(header: str | None) -> float | None:
    """The seconds of a Retry-After header; a date in it is left to our own waits."""
    if header is None or not header.strip().isdigit():
        return None
    return min(float(header), LONGEST_WAIT_S)
