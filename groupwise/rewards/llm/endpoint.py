"""Client of a server with OpenAI's chat interface: retries while it is busy, and counts tokens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from groupwise.errors import RewardError

BUSY = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""Status codes after which a retry can help."""

REFUSED = {401, 403, 404, 405}
"""Status codes that every request would get: the key, the model or the address is wrong."""

LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class Reply:
    """The reply to one request."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class NoReplyError(Exception):
    """One request got no reply; others may."""


@dataclass
class Endpoint:
    """One address. `num_retries`: retries of one request at most; waits double from `first_wait_s`."""

    base_url: str
    timeout_s: float
    num_retries: int
    api_key: str | None = field(default=None, repr=False)
    first_wait_s: float = 0.5
    _random: random.Random = field(default_factory=random.Random, repr=False)

    async def ask(self, client: Any, body: Mapping[str, Any]) -> Reply:
        """The reply to a chat request.

        Raises:
            NoReplyError: busy or unreachable to the end, this request refused, or no text in the reply.
            RewardError: every request would be refused.
        """
        for number in range(self.num_retries + 1):
            wait_s, problem = await self._try(client, body)
            if isinstance(problem, Reply):
                return problem
            if number < self.num_retries:
                await asyncio.sleep(self._wait_s(number) if wait_s is None else wait_s)
        raise NoReplyError(f"{problem}, {self.num_retries + 1} times")

    async def _try(self, client: Any, body: Mapping[str, Any]) -> tuple[float | None, Reply | str]:
        """A reply; or the problem, with the seconds to wait if the server names them."""
        import httpx

        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        try:
            response = await client.post(
                f"{self.base_url}/chat/completions", json=dict(body), headers=headers, timeout=self.timeout_s
            )
        except httpx.TransportError as error:
            return None, f"{type(error).__name__} {self._without_key(str(error))}".strip()
        if response.status_code == 200:
            return None, _read(response)
        problem = self._without_key(f"status {response.status_code}: {' '.join(response.text.split())[:200]}")
        if response.status_code in REFUSED:
            raise RewardError(
                f"The judge at {self.base_url} refuses: {problem} Check base_url, llm and the variable of api_key_env."
            )
        if response.status_code not in BUSY:
            raise NoReplyError(problem)
        return _retry_after(response.headers.get("retry-after")), problem

    def _wait_s(self, number: int) -> float:
        """Twice as long each time, half of it by chance, so that many callers do not come back together."""
        longest = min(self.first_wait_s * 2.0**number, LONGEST_WAIT_S)
        return longest * (0.5 + 0.5 * self._random.random())

    def _without_key(self, text: str) -> str:
        return text.replace(self.api_key, "***") if self.api_key else text


def _read(response: Any) -> Reply:
    try:
        content = response.json()
        text = content["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise NoReplyError("a reply that is not of OpenAI's chat form") from error
    if not isinstance(text, str):
        raise NoReplyError("an empty reply")
    usage = content.get("usage") or {}
    return Reply(text, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))


def _retry_after(header: str | None) -> float | None:
    """The seconds of a Retry-After header; a date in it is left to our own waits."""
    if header is None or not header.strip().isdigit():
        return None
    return min(float(header), LONGEST_WAIT_S)
