"""Evaluation: rewards on held-out problems, greedy and sampled, each with its standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from time import perf_counter
from typing import Any

from groupwise.config import Settings
from groupwise.data.order import Draw
from groupwise.lifecycle.callbacks import Callbacks
from groupwise.rewards import RewardScorer
from groupwise.runs.log_entries import finite
from groupwise.runs.screen import Screen
from groupwise.runs.trackers import Trackers
from groupwise.train.collect import score_as_the_program
from groupwise.train.sampler import EVALUATION, GroupSampler
from groupwise.train.schedule import Schedule
from groupwise.train.step import Idle, StepRecord
from groupwise.types import ScoredGroup


class Evaluator:
    """Evaluates the same held-out problems every time, with the same seeds."""

    def __init__(self, sampler: GroupSampler, scorer: RewardScorer, config: Settings) -> None:
        self.sampler, self.scorer, self.config = sampler, scorer, config
        num_problems = len(sampler.problems)
        self.rows = range(min(num_problems, config.num_eval_problems or num_problems))

    def evaluate(self, trainer_state: Any = None) -> dict[str, float | None]:
        """The `eval_...` metrics. A problem's completions are averaged first: errors are of the mean over problems."""
        start = perf_counter()
        count = self.config.num_generations_eval or self.config.num_generations
        sampled = self._scored(self.sampler, count, trainer_state)
        greedy = self._scored(self.sampler.greedy, 1, trainer_state)
        metrics = {**mean_and_error("eval_reward", sampled), **mean_and_error("eval_greedy_reward", greedy)}
        for name in sampled[0].rewards:
            scored = [r for g in sampled for r in g.rewards[name] if r is not None]
            metrics[f"eval_rewards/{name}/mean"] = fmean(scored) if scored else None
        metrics["eval_completions/mean_length"] = fmean(len(c.token_ids) for g in sampled for c in g.completions)
        metrics["time/eval"] = perf_counter() - start
        return metrics

    def _scored(self, sampler: GroupSampler, count: int, trainer_state: Any) -> tuple[ScoredGroup, ...]:
        groups = sampler.sample([Draw(row, row) for row in self.rows], count, EVALUATION)
        return score_as_the_program(self.scorer, groups, trainer_state).groups


class EvaluationHook(Idle):
    """Evaluates when it is due or asked for, with an entry of its own in every log."""

    def __init__(
        self,
        evaluator: Evaluator | None,
        schedule: Schedule,
        callbacks: Callbacks,
        trackers: Trackers,
        screen: Screen,
    ) -> None:
        self._evaluator, self._schedule = evaluator, schedule
        self._callbacks, self._trackers, self._screen = callbacks, trackers, screen
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

    def evaluate(self) -> dict[str, float | None]:
        """Evaluate now; empty without held-out problems."""
        if self._evaluator is None:
            return {}
        self._screen.progress("evaluate", 0, len(self._evaluator.rows))
        metrics = self._evaluator.evaluate(self._callbacks.state)
        self._screen.evaluation({**metrics, "step": self._callbacks.state.global_step})
        self._callbacks.evaluated(metrics, self._trackers)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"at_start": dict(self.at_start)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.at_start = state["at_start"]


def mean_and_error(name: str, groups: Sequence[ScoredGroup]) -> dict[str, float | None]:
    """Mean reward over problems and its standard error."""
    scored = [[r for r in g.reward if r is not None] for g in groups]
    means = [fmean(rewards) for rewards in scored if rewards]
    error = stdev(means) / len(means) ** 0.5 if len(means) > 1 else None
    return {name: fmean(means) if means else None, f"{name}_stderr": error}
