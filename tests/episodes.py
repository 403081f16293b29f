"""Environments and engines of tests: they do what a test types in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tiny import tiny_tokenizer

from groupwise.config import GRPOConfig
from groupwise.data.prepare import prepare
from groupwise.data.problems import Problems
from groupwise.environments import Observation, Reply
from groupwise.environments.pool import EnvironmentPool
from groupwise.rollout.scripted import ScriptedEngine
from groupwise.train.episodes import EpisodeSampler
from groupwise.types import Completion, Message, Problem, Request

ASKED = [{"role": "user", "content": "begin"}]


def user(content: str) -> list[Message]:
    return [{"role": "user", "content": content}]


class Plays:
    """An environment whose `step` is a function of (the environment, the reply)."""

    def __init__(self, step: Callable[[Any, Reply], Any], reset: Callable[[Any, int], Any] | None = None) -> None:
        self._step, self._reset = step, reset
        self.turn, self.seed, self.num_resets, self.is_closed = 0, 0, 0, False

    def reset(self, problem: Problem, seed: int) -> Any:
        self.turn, self.seed, self.num_resets = 0, seed, self.num_resets + 1
        return () if self._reset is None else self._reset(self, seed)

    def step(self, reply: Reply) -> Any:
        self.turn += 1
        return self._step(self, reply)

    def close(self) -> None:
        self.is_closed = True


def says(number: int, *, reward: float | None = None) -> Callable[[Any, Reply], Observation]:
    """An environment's step: so many answers, then the end."""

    def step(environment: Any, reply: Reply) -> Observation:
        if environment.turn > number:
            return Observation(reward=reward, done=True)
        return Observation(user(f"answer {environment.turn}"), reward=reward)

    return step


class Recording(ScriptedEngine):
    """A scripted engine that keeps its requests; log-probs are minus the token's place in its turn."""

    def __init__(self, script: Callable[[Request, int], Sequence[int]]) -> None:
        super().__init__(script)
        self.requests: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> Any:
        self.requests += requests
        for number, found in super().generate(requests):
            yield number, [replace(c, rollout_logprob=tuple(-1.0 - t for t in range(len(c.token_ids)))) for c in found]

    @property
    def sampled_for(self) -> list[tuple[int, ...]]:
        return [request.prompt_ids for request in self.requests]


def sampler(
    engine: Any,
    make: Callable[[], Any],
    *,
    prompts: Sequence[Any] = (ASKED,),
    context: int | None = None,
    tokenizer: Any = None,
    name: str = "game",
    **settings: Any,
) -> EpisodeSampler:
    """An episode sampler over these prompts."""
    tokenizer = tokenizer or tiny_tokenizer(chat=True)
    config = GRPOConfig(**{"max_completion_length": 200, "environment_timeout_s": 20, **settings}).settings
    problems = prepare(Problems([{"prompt": prompt} for prompt in prompts]), tokenizer)
    pool = EnvironmentPool(name, make)
    return EpisodeSampler.playing(engine, problems, config, tokenizer, (tokenizer.eos_token_id,), pool, context)


def check_tiled(completion: Completion) -> None:
    """Turns are in order, given tokens are between them, and a completion ends with a sampled token."""
    ends = [0, *(turn.end for turn in completion.turns)]
    assert all(before <= turn.start < turn.end for before, turn in zip(ends, completion.turns, strict=False))
    assert ends[-1] == len(completion.token_ids) == len(completion.rollout_logprob)
    sampled = set(completion.sampled)
    assert all((completion.rollout_logprob[t] != 0) == (t in sampled) for t in range(len(completion.token_ids)))
