"""Served rollouts of a run: the engine over its servers, the handshake with them, and what is recorded of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from groupwise.config import Settings
from groupwise.data.prepare import PreparedProblems
from groupwise.policy.adapter import active_config, has_adapter
from groupwise.policy.bounds import num_logits
from groupwise.policy.bundle import PolicyBundle
from groupwise.rollout.engine import Engine
from groupwise.rollout.publish import VersionWriter, expected_logprobs, require_servable
from groupwise.rollout.served.client import Client
from groupwise.rollout.served.flags import ServerPlan
from groupwise.rollout.served.handshake import Needs
from groupwise.rollout.served.served_engine import ServedEngine
from groupwise.rollout.served.server_pool import Server
from groupwise.rollout.served.version_probe import NUM_TOKENS
from groupwise.rollout.served.vllm import VllmDialect
from groupwise.runs.writer import RunWriter
from groupwise.train.step import Idle, StepRecord

_log = logging.getLogger(__name__)

KEY = "GROUPWISE_SERVER_KEY"
"""Variable with the key of the servers."""

PROBE_TEXT = (
    "A policy samples a group of answers to one question. A reward scores each of them, and its advantage is how far "
    "it lies above the mean of the group; 12 + 30 = 42."
)


def make_served_engine(policy: PolicyBundle, config: Settings) -> ServedEngine:
    """The engine over `config.servers`; nobody is asked yet.

    Raises:
        ModelError: the adapter cannot travel.
    """
    model, mode = policy.model, sync_mode(policy.model, config)
    require_servable(model, mode)
    text, ids = _probe(policy.tokenizer)
    folder = Path(config.sync_dir or Path(config.output_dir) / "sync").expanduser().absolute()
    name = Path(config.output_dir).resolve().name or "run"
    servers = [Server(VllmDialect(Client(u, os.environ.get(KEY)), config.request_timeout)) for u in config.servers]
    expected = None
    if mode == "lora":
        with policy.policy_model.adapters_off():
            expected = expected_logprobs(policy.policy_model, ids)
    needs = Needs(plan_of(model, policy.name, config).in_words(), mode, 0, config.rollout_lag + 2, text, ids, expected)
    return ServedEngine(
        servers,
        VersionWriter(policy.policy_model, folder, name, mode=mode, probe_ids=ids),
        needs,
        vocabulary=num_logits(model),
        server_timeout_s=config.server_timeout,
        lag=config.rollout_lag,
    )


def sync_mode(model: nn.Module, config: Settings) -> str:
    """lora or weights: what travels."""
    if config.sync != "auto":
        return config.sync
    return "lora" if has_adapter(model) else "weights"


def plan_of(model: nn.Module, name: str, config: Settings) -> ServerPlan:
    """How a server for this model is started."""
    adapter = active_config(model)
    mode = sync_mode(model, config)
    return ServerPlan(
        model=str(getattr(getattr(model, "config", None), "name_or_path", "") or name),
        mode=mode,
        rank=getattr(adapter, "r", 0) or 0 if mode == "lora" else 0,
        lag=config.rollout_lag,
    )


def _probe(tokenizer: Any) -> tuple[str, tuple[int, ...]]:
    """A text whose tokens are as many as the probe has, and the tokens."""
    ids = tokenizer(PROBE_TEXT, add_special_tokens=False)["input_ids"][:NUM_TOKENS]
    text = tokenizer.decode(ids)
    again = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    return text, again


def meet_servers(
    engine: ServedEngine, problems: PreparedProblems, config: Settings, gpus: Sequence[str | None] = ()
) -> None:
    """The handshake, now that the longest prompt is known; `gpus`: those of the ranks, which no server may use.

    Raises:
        RolloutError: a server cannot serve the run.
    """
    longest = problems.max_prompt_tokens + config.max_completion_length
    engine.needs = replace(engine.needs, num_tokens=longest, gpus=tuple(gpu for gpu in gpus if gpu is not None))
    engine.shake_hands()
    addresses = ", ".join(f"{each.url} ({each.gpu})" if each.gpu else each.url for each in engine.servers)
    learns = f" The run learns on {', '.join(engine.needs.gpus)}." if engine.needs.gpus else ""
    _log.info(
        f"{engine.capabilities.name} samples at {addresses}; {engine.needs.mode} travels after each step.{learns}"
    )


class ServersHook(Idle):
    """Records what happened to the servers in a step; without servers, nothing."""

    def __init__(self, engine: Engine, writer: RunWriter) -> None:
        self._engine = engine if isinstance(engine, ServedEngine) else None
        self._writer, self._repeats = writer, 0

    def start(self) -> None:
        self._record(0)

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        self._record(record.step)
        if (engine := self._engine) is None:
            return {}
        repeats, self._repeats = engine.num_repeats - self._repeats, engine.num_repeats
        return {
            "servers/live": engine.num_live,
            "servers/repeats": repeats,
            "servers/probe_gap": engine.probe_gap,
            "time/publish": engine.publish_s,
        }

    def end(self) -> None:
        self._record(None)

    def _record(self, step: int | None) -> None:
        if self._engine is None:
            return
        events, self._engine.events[:] = list(self._engine.events), []
        for kind, text in events:
            self._writer.event(kind, step=step, message=text)
            _log.warning(text)
