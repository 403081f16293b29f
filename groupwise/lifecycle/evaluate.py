"""Evaluation: rewards on held-out problems, greedy and sampled, each with its standard error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from time import perf_counter
from typing import Any

from groupwise.config import Settings
from groupwise.data.order import Draw
from groupwise.errors import RewardError
from groupwise.lifecycle.callbacks import Callbacks
from groupwise.lifecycle.gold_logprob import GoldLogProb
from groupwise.rewards import RewardScorer
from groupwise.rewards.gold_answers import AnswerOf
from groupwise.runs.folder import SCHEMA_VERSION
from groupwise.runs.log_entries import finite
from groupwise.runs.records import EvaluationRecord, evaluation_record
from groupwise.runs.screen import Screen
from groupwise.train.collect import score_as_the_program
from groupwise.train.sampler import EVALUATION, GroupSampler
from groupwise.train.schedule import Schedule
from groupwise.train.step import Idle, StepRecord
from groupwise.train.step_metrics import lengths, mean_of_scored, spread, turns
from groupwise.types import Group, ScoredGroup

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation of a set measured, and the completions that it is of."""

    metrics: dict[str, float | None]
    """Under the keys of the set."""
    sampled: tuple[ScoredGroup, ...]
    greedy: tuple[ScoredGroup, ...]
    """Empty where none were made."""
    set_name: str
    answer_of: AnswerOf | None

    def records(self) -> Iterator[EvaluationRecord]:
        """The lines of the run folder: each problem's sampled completions, then its greedy one."""
        for kind, groups in (("sampled", self.sampled), ("greedy", self.greedy)):
            for group in groups:
                answer = None if self.answer_of is None else self.answer_of(group.problem)
                yield evaluation_record(group, kind, self.set_name, answer, SCHEMA_VERSION)


class Evaluator:
    """Evaluates the same held-out problems every time, with the same seeds.

    The metrics are called `<prefix>_reward`, ...: `eval_math_reward` for the evaluation set `math`.
    """

    def __init__(
        self,
        sampler: GroupSampler,
        scorer: RewardScorer,
        config: Settings,
        prefix: str = "eval",
        loss: Callable[[Sequence[ScoredGroup]], float] | None = None,
        answer_of: AnswerOf | None = None,
        gold_logprob: GoldLogProb | None = None,
    ) -> None:
        self.sampler, self.scorer, self.config, self.prefix = sampler, scorer, config, prefix
        self._loss = loss
        """The loss of sampled completions, where it is measured."""
        self._answer_of = answer_of
        self.gold_logprob = gold_logprob
        """Scores the data's own answers, where they can be the whole completion."""
        self._scores_singles: bool | None = None
        """Whether the reward functions can score a completion without others of its prompt; None until it is tried."""
        num_problems = len(sampler.problems)
        self.rows = range(min(num_problems, config.num_eval_problems or num_problems))

    def evaluate(self, trainer_state: Any = None) -> Evaluation:
        """Sample, score and measure.

        A problem's completions are averaged first: errors are of the mean over problems.
        """
        start, prefix = perf_counter(), self.prefix
        count = self.config.num_generations_eval or self.config.num_generations
        sampled = self._scored(self._groups(self.sampler, count), trainer_state)
        metrics = mean_and_error(f"{prefix}_reward", sampled)
        greedy = self._greedy(trainer_state) if self.config.eval_greedy else ()
        if self.config.eval_greedy:
            metrics |= mean_and_error(f"{prefix}_greedy_reward", greedy)
        metrics |= {f"{prefix}_{key}": value for key, value in _of_sampled(sampled).items()}
        if self._loss is not None:
            metrics[f"{prefix}_loss"] = self._loss(sampled)
        if self.gold_logprob is not None:
            metrics[f"{prefix}_gold_logprob"] = self.gold_logprob([self.sampler.problems[row] for row in self.rows])
        seconds = perf_counter() - start
        metrics[f"{prefix}_samples_per_second"] = sum(len(g.completions) for g in sampled) / seconds
        metrics[f"{prefix}_steps_per_second"] = len(sampled) / seconds
        metrics[f"time/{prefix}"] = seconds
        return Evaluation(metrics, sampled, greedy, prefix.partition("_")[2], self._answer_of)

    def _greedy(self, trainer_state: Any) -> tuple[ScoredGroup, ...]:
        """One greedy completion a problem with its reward; empty where a reward function needs several a prompt.

        The first evaluation finds out by scoring one completion alone: a function that cuts its completions into groups
        fails there, and would not where the number of problems happens to be a multiple of the group's size.
        """
        if self._scores_singles is False:
            return ()
        groups = self._groups(self.sampler.greedy, 1)
        if self._scores_singles is None:
            first = self._tried(groups[:1], trainer_state)
            self._scores_singles = bool(first)
            if len(groups) == 1 or not first:
                return first
        return self._scored(groups, trainer_state)

    def _tried(self, groups: Sequence[Group], trainer_state: Any) -> tuple[ScoredGroup, ...]:
        try:
            return self._scored(groups, trainer_state)
        except RewardError as error:  # the sampled groups were scored a moment ago
            _log.warning(
                f"Greedy completions, one a problem, stay without a reward: {error} A function that compares the "
                "completions of a prompt needs several; eval_greedy=False leaves them out."
            )
            return ()

    def _groups(self, sampler: GroupSampler, count: int) -> list[Group]:
        return sampler.sample([Draw(row, row) for row in self.rows], count, EVALUATION)

    def _scored(self, groups: Sequence[Group], trainer_state: Any) -> tuple[ScoredGroup, ...]:
        return score_as_the_program(self.scorer, groups, trainer_state).groups


class EvaluationHook(Idle):
    """Evaluates when it is due or asked for, with an entry of its own in every log."""

    def __init__(
        self,
        evaluators: Sequence[Evaluator],
        evaluate: Callable[[], Mapping[str, Any] | None],
        schedule: Schedule,
        callbacks: Callbacks,
        screen: Screen,
    ) -> None:
        self._evaluators, self._evaluate = evaluators, evaluate
        self._schedule, self._callbacks, self._screen = schedule, callbacks, screen
        self.at_start: Mapping[str, float] = {}
        """The evaluation before the first step, which is recorded with that step."""
        self._latest: tuple[int, Mapping[str, Any]] = (0, {})

    def start(self) -> None:
        if self._schedule.config.eval_on_start and self._schedule.step == 0:
            self.at_start = finite(self.evaluate())

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        step = record.step
        is_asked = self._callbacks.take("should_evaluate") or record.is_evaluation_asked
        is_due = self._schedule.is_evaluation_due(step)
        self._latest = (step, self.evaluate() if is_due or is_asked else {})
        return {**(self.at_start if step == 1 else {}), **self._latest[1]}

    def of_step(self, step: int) -> Mapping[str, Any]:
        """The evaluation after that step; empty where there was none."""
        return self._latest[1] if self._latest[0] == step else {}

    @property
    def prefixes(self) -> list[str]:
        """How the keys of each evaluation set begin."""
        return [evaluator.prefix for evaluator in self._evaluators]

    def evaluate(self) -> dict[str, Any]:
        """Evaluate and log now; empty without held-out problems."""
        if not self._evaluators:
            return {}
        self._screen.progress("evaluate", 0, sum(len(evaluator.rows) for evaluator in self._evaluators))
        metrics = {key: value for key, value in (self._evaluate() or {}).items() if key != "epoch"}  # the step has it
        self._screen.evaluation({**metrics, "step": self._callbacks.state.global_step})
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"at_start": dict(self.at_start)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.at_start = state["at_start"]


def _of_sampled(groups: Sequence[ScoredGroup]) -> dict[str, float | None]:
    """Measurements of the sampled completions beside their mean reward, under the names that a step has for them."""
    metrics: dict[str, float | None] = {"reward_std": spread([r for g in groups for r in g.reward])}
    metrics["frac_reward_zero_std"] = fmean(not g.has_signal for g in groups)
    for name in groups[0].rewards:
        values = [r for g in groups for r in g.rewards[name]]
        metrics |= {f"rewards/{name}/mean": mean_of_scored(values), f"rewards/{name}/std": spread(values)}
    completions = [c for g in groups for c in g.completions]
    return {**metrics, **lengths(completions), **turns(completions)}


def mean_and_error(name: str, groups: Sequence[ScoredGroup]) -> dict[str, float | None]:
    """Mean reward over problems and its standard error."""
    scored = [[r for r in g.reward if r is not None] for g in groups]
    means = [fmean(rewards) for rewards in scored if rewards]
    error = stdev(means) / len(means) ** 0.5 if len(means) > 1 else None
    return {name: fmean(means) if means else None, f"{name}_stderr": error}
