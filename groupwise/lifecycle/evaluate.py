"""Rewards on held-out problems, greedy and sampled, each with its standard error."""

from __future__ import annotations

from statistics import fmean, stdev
from time import perf_counter
from typing import Any

from groupwise.chat import completion_decoder
from groupwise.config import GRPOConfig
from groupwise.data.order import Draw
from groupwise.data.prepare import PreparedProblems
from groupwise.rewards import RewardScorer
from groupwise.rollout.engine import Engine
from groupwise.train.collect import as_greedy, make_group, make_sampling, score_as_the_program
from groupwise.types import Group, Request, Sampling

EVALUATION = 1 << 31
"""Takes the place of the step in seeds, so that no evaluation shares a stream with a rollout."""


class Evaluator:
    """Evaluates the same held-out problems every time, with the same seeds."""

    def __init__(
        self,
        problems: PreparedProblems,
        engine: Engine,
        scorer: RewardScorer,
        config: GRPOConfig,
        tokenizer: Any,
        stop_ids: tuple[int, ...],
    ) -> None:
        self.problems, self.engine, self.scorer, self.config = problems, engine, scorer, config
        self.rows = range(min(len(problems), config.num_eval_problems or len(problems)))
        self.sampled = make_sampling(config, stop_ids)
        self.greedy = as_greedy(self.sampled)
        self.decode = completion_decoder(tokenizer, self.sampled)

    def evaluate(self, trainer_state: Any = None) -> dict[str, float | None]:
        """The `eval_...` metrics. A problem's completions are averaged first: errors are of the mean over problems."""
        start = perf_counter()
        sampled = self._judged(
            self.sampled, self.config.num_generations_eval or self.config.num_generations, trainer_state
        )
        greedy = self._judged(self.greedy, 1, trainer_state)
        metrics = {**mean_and_error("eval_reward", sampled), **mean_and_error("eval_greedy_reward", greedy)}
        for name in sampled[0].rewards:
            judged = [r for g in sampled for r in g.rewards[name] if r is not None]
            metrics[f"eval_rewards/{name}/mean"] = fmean(judged) if judged else None
        metrics["eval_completions/mean_length"] = fmean(len(c.token_ids) for g in sampled for c in g.completions)
        metrics["time/eval"] = perf_counter() - start
        return metrics

    def _judged(self, sampling: Sampling, count: int, trainer_state: Any) -> tuple[Group, ...]:
        draws = [Draw(number, row) for number, row in enumerate(self.rows)]
        requests = [
            Request(
                self.problems[draw.row].prompt_ids,
                count,
                sampling,
                seed=(self.config.seed, EVALUATION, draw.row),
                decode=self.decode,
                label=self.problems[draw.row].problem.label,
            )
            for draw in draws
        ]
        answers = dict(self.engine.generate(requests))
        groups = [make_group(d, self.problems, answers[d.number], self.decode) for d in draws]
        return score_as_the_program(self.scorer, groups, trainer_state).groups


def mean_and_error(name: str, groups: tuple[Group, ...]) -> dict[str, float | None]:
    """Mean reward over problems and its standard error."""
    judged = [[r for r in g.reward if r is not None] for g in groups]
    means = [fmean(rewards) for rewards in judged if rewards]
    error = stdev(means) / len(means) ** 0.5 if len(means) > 1 else None
    return {name: fmean(means) if means else None, f"{name}_stderr": error}
