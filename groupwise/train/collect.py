"""Draws problems, has their groups sampled and judged; with dynamic sampling, again for groups without signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from groupwise.chat import completion_decoder
from groupwise.config import GRPOConfig
from groupwise.data import Order
from groupwise.data.order import Draw
from groupwise.data.prepare import PreparedProblems
from groupwise.rewards import RewardScorer
from groupwise.rewards.scorer import ScoredGroups
from groupwise.rollout.engine import Engine
from groupwise.torch_settings import settings_of_program
from groupwise.train.overlong import with_overlong_penalty
from groupwise.train.signal import SignalTest, signal_test
from groupwise.types import Completion, Group, Request, Sampling

Progress = Callable[[str, int, int], None]


@dataclass
class Collected:
    """The groups of one step and what they cost."""

    groups: list[Group] = field(default_factory=list)
    dropped: list[Group] = field(default_factory=list)
    """Drawn and not trained on, for want of signal."""
    rollout_s: float = 0.0
    reward_s: float = 0.0
    function_s: dict[str, float] = field(default_factory=dict)
    logged: dict[str, float] = field(default_factory=dict)
    num_truncated_prompts: int = 0
    has_signal: SignalTest = field(default=lambda group: group.has_signal)
    """The test that the step was collected with."""

    @property
    def all_groups(self) -> list[Group]:
        return [*self.groups, *self.dropped]


class Collector:
    """Makes groups out of drawn problems."""

    def __init__(
        self,
        problems: PreparedProblems,
        order: Order,
        engine: Engine,
        scorer: RewardScorer,
        config: GRPOConfig,
        tokenizer: Any,
        stop_ids: tuple[int, ...],
    ) -> None:
        self.problems, self.order, self.engine = problems, order, engine
        self.scorer = with_overlong_penalty(scorer, config)
        self.config = config
        self.sampling = make_sampling(config, stop_ids)
        self.decode = completion_decoder(tokenizer, self.sampling)
        self.greedy = as_greedy(self.sampling) if config.resolved_objective.baseline == "greedy" else None
        self.has_signal = signal_test(config, [f.weight for f in self.scorer.functions])
        self.on_progress: Progress = lambda phase, done, total: None

    def collect(self, step: int, trainer_state: Any = None) -> Collected:
        """The scored groups of one step; a draw is never counted twice, whatever became of it."""
        collected = Collected(has_signal=self.has_signal)
        wanted = self.config.prompts_per_step
        self._add(collected, self.order.draw(), step, trainer_state)
        if not self.config.dynamic_sampling:
            return collected
        draws_left = wanted * (self.config.dynamic_sampling_max_draws - 1)
        while True:
            without = [g for g in collected.groups if not self.has_signal(g)]
            num = min(len(without), draws_left, self.order.num_left_in_step)
            if num == 0:
                return collected
            collected.groups = [g for g in collected.groups if self.has_signal(g)] + without[num:]
            collected.dropped += [replace(g, is_used=False) for g in without[:num]]
            draws_left -= num
            self._add(collected, self.order.draw(num, same_step=True), step, trainer_state)

    def _add(self, collected: Collected, draws: Sequence[Draw], step: int, trainer_state: Any) -> None:
        start = perf_counter()
        groups = self._roll_out(draws, step)
        greedy = self._roll_out_greedily(draws)
        middle = perf_counter()
        self.on_progress("reward", 0, len(groups))
        judged = score_as_the_program(self.scorer, groups, trainer_state)
        if greedy:
            rewards = [g.reward[0] for g in score_as_the_program(self.scorer, greedy, trainer_state).groups]
            collected.groups += [replace(g, greedy_reward=r) for g, r in zip(judged.groups, rewards, strict=True)]
        else:
            collected.groups += judged.groups
        collected.rollout_s += middle - start
        collected.reward_s += perf_counter() - middle
        for name, seconds in judged.seconds.items():
            collected.function_s[name] = collected.function_s.get(name, 0.0) + seconds
        collected.logged |= judged.logged
        collected.num_truncated_prompts += sum(self.problems[draw.row].is_truncated for draw in draws)

    def _roll_out(self, draws: Sequence[Draw], step: int) -> list[Group]:
        requests = [self._request(draw, step) for draw in draws]
        completions: dict[int, list[Completion]] = {}
        total = len(draws) * self.config.num_generations
        self.on_progress("rollout", 0, total)
        for number, finished in self.engine.generate(requests):
            completions[number] = finished
            self.on_progress("rollout", len(completions) * self.config.num_generations, total)
        return [make_group(draw, self.problems, completions[number], self.decode) for number, draw in enumerate(draws)]

    def _roll_out_greedily(self, draws: Sequence[Draw]) -> list[Group]:
        """One greedy completion a problem, as a group of its own; none where the objective does not compare with it."""
        if self.greedy is None:
            return []
        requests = [replace(self._request(d, 0), num_completions=1, sampling=self.greedy) for d in draws]
        answers = dict(self.engine.generate(requests))
        return [make_group(draw, self.problems, answers[i], self.decode) for i, draw in enumerate(draws)]

    def _request(self, draw: Draw, step: int) -> Request:
        return Request(
            self.problems[draw.row].prompt_ids,
            self.config.num_generations,
            self.sampling,
            seed=(self.config.seed, step, draw.number),
            decode=self.decode,
            label=self.problems[draw.row].problem.label,
        )


def score_as_the_program(scorer: RewardScorer, groups: Sequence[Group], trainer_state: Any) -> ScoredGroups:
    """The groups with their rewards; the functions see the program's settings of torch."""
    with settings_of_program():
        return scorer.score(groups, trainer_state=trainer_state)


def make_sampling(config: GRPOConfig, stop_ids: tuple[int, ...]) -> Sampling:
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


def make_group(
    draw: Draw,
    problems: PreparedProblems,
    completions: Sequence[Completion],
    decode: Callable[[Sequence[int]], str],
) -> Group:
    """The completions of one draw with their text."""
    prepared = problems[draw.row]
    texts = [replace(c, text=decode(c.token_ids)) for c in completions]
    return Group(draw.number, prepared.problem, prepared.prompt_ids, tuple(texts), opening=prepared.opening)
