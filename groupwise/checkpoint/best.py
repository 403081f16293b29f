"""The best checkpoint by evaluation, and when one evaluation is better than another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from groupwise.config import Settings
from groupwise.errors import ConfigError, did_you_mean
from groupwise.runs.metrics import evaluation_keys
from groupwise.train.evaluation_loss import has_evaluation_loss
from groupwise.train.step import Idle, StepRecord


class Best:
    """The best value of `metric_for_best_model` among the checkpoints so far, and its step.

    `evaluation_of` gives the evaluation after a step, empty where there was none.
    """

    def __init__(self, config: Settings, evaluation_of: Callable[[int], Mapping[str, Any]]) -> None:
        self._evaluation_of = evaluation_of
        self.metric = metric_name(config)
        self.is_higher_better = config.greater_is_better is not False
        self.step: int | None = None
        self.value: float | None = None

    def value_at(self, step: int) -> float | None:
        """The metric in the evaluation after that step; None where it was not measured."""
        return self._evaluation_of(step).get(self.metric)

    def is_better(self, step: int) -> bool:
        """Whether the evaluation after a step beats the best checkpoint's; the earlier of two equal ones stays."""
        return self.is_above(self.value_at(step), self.value)

    def is_above(self, value: float | None, best: float | None) -> bool:
        """Whether a value was measured and is better than the best so far, None where there is none yet."""
        if value is None or best is None:
            return value is not None
        return (value > best) is self.is_higher_better and value != best

    def take(self, step: int) -> None:
        self.step, self.value = step, float(self._evaluation_of(step)[self.metric])

    def state_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "is_higher_better": self.is_higher_better,
            "step": self.step,
            "value": self.value,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back, where its values can be compared with those of this run."""
        if self.is_comparable(state):
            self.step, self.value = state["step"], state["value"]

    def is_comparable(self, state: Mapping[str, Any]) -> bool:
        """Whether `state` is of the same metric in the same direction."""
        is_same_way = state.get("is_higher_better", self.is_higher_better) == self.is_higher_better
        return bool(state["metric"] == self.metric and is_same_way)


class FollowBest(Idle):
    """Keeps the best of all evaluations in the trainer state, with a checkpoint or without, as callbacks expect it."""

    def __init__(self, best: Best, callbacks: Any) -> None:
        self._best, self._callbacks = best, callbacks

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        value = self._best.value_at(record.step)
        state = self._callbacks.state
        if self._best.is_above(value, state.best_metric):
            state.best_metric, state.best_global_step = value, record.step
        return {}


def metric_name(config: Settings) -> str:
    """As the record of an evaluation spells it; the ecosystem lets `eval_` be left out."""
    name = config.metric_for_best_model or "eval_reward"
    return name if name.startswith("eval_") else f"eval_{name}"


def is_measured(config: Settings, key: str, *, has_gold: bool = True) -> bool:
    """Whether evaluations under this configuration have a key of theirs; `has_gold`: their data has right answers."""
    if "_greedy_reward" in key:
        return config.eval_greedy
    if key.endswith("_gold_logprob"):
        return has_gold
    return not key.endswith("_loss") or has_evaluation_loss(config)


def check_metric(
    config: Settings, functions: Sequence[str], prefixes: Sequence[str] = ("eval",), *, has_gold: bool = True
) -> None:
    """Raise `ConfigError` when no evaluation will ever have the metric.

    `prefixes`: how the metrics of each evaluation set begin.
    """
    known = [key for prefix in prefixes for key in evaluation_keys(prefix, functions)]
    known = [key for key in known if is_measured(config, key, has_gold=has_gold)]
    is_needed = config.metric_for_best_model is not None or config.load_best_model_at_end
    if is_needed and metric_name(config) not in known:
        raise ConfigError(
            f'metric_for_best_model is "{metric_name(config)}", which no evaluation measures; expected one of '
            f"{', '.join(known)}.{did_you_mean(metric_name(config), known)}"
        )
