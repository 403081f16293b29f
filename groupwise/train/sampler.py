"""From draws to groups: one way for training, evaluation, the pre-flight check and the benchmarks, seeds included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from groupwise.chat import completion_decoder
from groupwise.config import Settings
from groupwise.data.order import Draw
from groupwise.data.prepare import PreparedProblems
from groupwise.rollout.engine import Engine
from groupwise.types import Completion, Group, Request, Sampling

OnProgress = Callable[[int, int], None]
"""(completions sampled, completions asked for)."""

EVALUATION = 1 << 31
"""Takes the place of the step in the seeds of an evaluation, so that it shares no stream with a rollout."""
PROBE = 0
"""Takes the place of the step in the seeds of completions that are not trained on: no step has number 0."""


@dataclass(frozen=True)
class GroupSampler:
    """Samples the groups of drawn problems from an engine."""

    engine: Engine
    problems: PreparedProblems
    sampling: Sampling
    decode: Callable[[Sequence[int]], str]
    """Token ids of a completion -> its text."""
    seed: int

    @classmethod
    def of(
        cls,
        engine: Engine,
        problems: PreparedProblems,
        config: Settings,
        tokenizer: Any,
        stop_ids: tuple[int, ...],
    ) -> GroupSampler:
        """As the configuration samples."""
        sampling = make_sampling(config, stop_ids)
        return cls(engine, problems, sampling, completion_decoder(tokenizer, sampling), config.seed)

    @property
    def greedy(self) -> GroupSampler:
        """The same with the likeliest token each time."""
        return replace(self, sampling=as_greedy(self.sampling))

    def requests(self, draws: Sequence[Draw], num_completions: int, step: int) -> list[Request]:
        """One a draw. Completion i draws its tokens from the stream (seed, step, number of the draw, i)."""
        return [
            Request(
                self.problems[draw.row].prompt_ids,
                num_completions,
                self.sampling,
                seed=(self.seed, step, draw.number),
                decode=self.decode,
                label=self.problems[draw.row].problem.label,
            )
            for draw in draws
        ]

    def sample(
        self,
        draws: Sequence[Draw],
        num_completions: int,
        step: int,
        on_progress: OnProgress = lambda done, total: None,
    ) -> list[Group]:
        """The groups of `draws`, in their order; `step` is the step's number, `EVALUATION` or `PROBE`."""
        return self.answer(draws, self.requests(draws, num_completions, step), on_progress)

    def answer(
        self,
        draws: Sequence[Draw],
        requests: Sequence[Request],
        on_progress: OnProgress = lambda done, total: None,
    ) -> list[Group]:
        """The groups that the engine answers these requests with, one a draw."""
        done, total = 0, sum(request.num_completions for request in requests)
        on_progress(done, total)
        found: dict[int, list[Completion]] = {}
        for index, completions in self.engine.generate(requests):
            found[index] = completions
            done += len(completions)
            on_progress(done, total)
        return [self._group(draw, found[index]) for index, draw in enumerate(draws)]

    def _group(self, draw: Draw, completions: Sequence[Completion]) -> Group:
        prepared = self.problems[draw.row]
        texts = tuple(replace(c, text=self.decode(c.token_ids)) for c in completions)
        return Group(draw.number, prepared.problem, prepared.prompt_ids, texts, prepared.opening)


def make_sampling(config: Settings, stop_ids: tuple[int, ...]) -> Sampling:
    """How the policy is sampled while it trains."""
    return Sampling(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        repetition_penalty=config.repetition_penalty,
        max_tokens=config.max_completion_length,
        stop_ids=stop_ids,
        stop=config.stop,
    )


def as_greedy(sampling: Sampling) -> Sampling:
    """The same with the likeliest token each time."""
    return replace(sampling, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)
