"""A policy, its fake servers and the engine between them, for the tests of served rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from tiny import EOS, VOCABULARY, tiny_model, tiny_tokenizer, with_lora

from groupwise.policy.policy_model import PolicyModel
from groupwise.rollout.publish import VersionWriter, expected_logprobs
from groupwise.rollout.served.client import Client
from groupwise.rollout.served.handshake import Needs
from groupwise.rollout.served.served_engine import ServedEngine
from groupwise.rollout.served.server_pool import Server
from groupwise.rollout.served.vllm import VllmDialect
from groupwise.types import Completion, Request, Sampling
from rollout.served.fake import FakeServer

TEXT = "the quick brown fox jumps over 3 dogs"
SAMPLING = Sampling(max_tokens=5, stop_ids=(EOS,))


def smallest_model(seed: int = 0) -> Any:
    """One layer: what is tested here is between the models."""
    return tiny_model(seed=seed, num_hidden_layers=1, hidden_size=16, intermediate_size=16)


def policy_of(mode: str, *, is_learnt: bool = False) -> PolicyModel:
    model = smallest_model()
    if mode == "lora":
        model = with_lora(model, is_learnt=is_learnt)
    return PolicyModel(model, torch.float32, None, "a test")


def base_of(policy: PolicyModel, mode: str) -> Any:
    return smallest_model() if mode == "lora" else policy.model


@torch.no_grad()
def train_a_little(policy: PolicyModel, size: float = 0.02, seed: int = 0) -> None:
    """Move every trained weight, as an optimizer step does."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.model.parameters():
        if parameter.requires_grad:
            parameter += size * torch.randn(parameter.shape, generator=generator)


def needs_of(policy: PolicyModel, mode: str, *, lag: int = 0, num_tokens: int = 40) -> Needs:
    ids = tuple(tiny_tokenizer()(TEXT)["input_ids"])[:32]
    expected = None
    if mode == "lora":
        with policy.adapters_off():
            expected = expected_logprobs(policy, ids)
    return Needs("vllm serve base", mode, num_tokens, lag + 2, TEXT[:32], ids, expected)


def make_engine(
    fakes: Sequence[FakeServer],
    policy: PolicyModel,
    folder: Path,
    mode: str = "lora",
    *,
    lag: int = 0,
    request_timeout_s: float = 30.0,
    server_timeout_s: float = 30.0,
    needs: Needs | None = None,
    key: str | None = None,
) -> ServedEngine:
    needs = needs or needs_of(policy, mode, lag=lag)
    servers = [Server(VllmDialect(Client(fake.url, key), request_timeout_s)) for fake in fakes]
    writer = VersionWriter(policy, folder, "run", mode=mode, probe_ids=needs.probe_ids)
    return ServedEngine(
        servers, writer, needs, vocabulary=VOCABULARY, server_timeout_s=server_timeout_s, lag=lag, check_s=0.05
    )


@contextmanager
def serving(
    tmp_path: Path, mode: str = "lora", *, num: int = 1, is_learnt: bool = False, lag: int = 0, **options: Any
) -> Iterator[tuple[ServedEngine, PolicyModel, list[FakeServer]]]:
    """An engine that has shaken hands and published version 0."""
    of_engine = {k: options.pop(k) for k in ("request_timeout_s", "server_timeout_s", "needs") if k in options}
    policy = policy_of(mode, is_learnt=is_learnt)
    with ExitStack() as stack:
        fakes = [stack.enter_context(FakeServer(base_of(policy, mode), **options)) for _ in range(num)]
        engine = make_engine(fakes, policy, tmp_path / "sync", mode, lag=lag, key=options.get("key"), **of_engine)
        stack.callback(engine.close)
        engine.shake_hands()
        engine.load_weights(policy, 0)
        yield engine, policy, fakes


def requests(num: int = 4, count: int = 2, step: int = 1, sampling: Sampling = SAMPLING) -> list[Request]:
    prompts = [tuple(tiny_tokenizer()(f"say {n} please")["input_ids"]) for n in range(num)]
    decode = tiny_tokenizer().decode
    return [Request(p, count, sampling, seed=(42, step, n), decode=decode) for n, p in enumerate(prompts)]


def sample(engine: ServedEngine, asked: Sequence[Request]) -> list[list[Completion]]:
    found = dict(engine.generate(asked))
    return [found[n] for n in range(len(asked))]
