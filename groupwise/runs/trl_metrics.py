"""TRL 1.16's metrics: each key of its log, what it is there, and what groupwise has under that key.

Scripts that import from `groupwise.trl` get TRL's definitions in `state.log_history`, `on_log`, callbacks and trackers.
The run folder has one definition of each key, whichever import a script uses (docs/metrics.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_EXTRA = "extra/"


@dataclass(frozen=True, slots=True)
class TrlMetric:
    """One key of TRL's log."""

    key: str
    definition: str
    """What TRL 1.16 logs under it, for one rollout."""
    difference: str = ""
    """What is different in the run folder, or where the two cannot agree."""
    source: str = ""
    """The key of the run folder that has TRL's number; empty where it is the same key."""
    if_unmeasured: float | None = None
    """What TRL logs where nothing was measured; None leaves the key out, unless `is_always`."""
    is_always: bool = False
    """Whether TRL logs None where nothing was measured."""


_NO_END = "TRL logs 0 where no completion ended; the run folder has null"
_OVER_PASSES = "TRL means over micro-batches, groupwise over all tokens of the step"

TRL_METRICS: tuple[TrlMetric, ...] = (
    TrlMetric("loss", "mean over the optimizer steps since the last entry"),
    TrlMetric("grad_norm", "of the last optimizer step", "mean over the updates of the last step"),
    TrlMetric("learning_rate", "of the last optimizer step"),
    TrlMetric("epoch", "passes over the data so far"),
    TrlMetric("num_tokens", "prompt and completion tokens so far"),
    TrlMetric("step_time", "seconds of an optimizer step, its rollout included", "seconds of the whole step"),
    TrlMetric("reward", "mean of the weighted sum over all completions"),
    TrlMetric(
        "reward_std",
        "standard deviation (ddof 1) of the weighted sum over all completions",
        "the run folder has the mean over groups of the deviation inside a group, and TRL's as `reward_std/step`",
        source="reward_std/step",
        is_always=True,
    ),
    TrlMetric("frac_reward_zero_std", "share of groups whose rewards are all equal"),
    TrlMetric("rewards/<function>/mean", "mean over the completions that the function scored", is_always=True),
    TrlMetric("rewards/<function>/std", "standard deviation (ddof 1) of the same", is_always=True),
    TrlMetric("completions/mean_length", "mean length in tokens, the end token included"),
    TrlMetric("completions/min_length", "shortest"),
    TrlMetric("completions/max_length", "longest"),
    TrlMetric(
        "completions/clipped_ratio",
        "share of completions that do not end in an end token",
        "a completion that a stop string ended counts as cut off in TRL, and as ended here",
    ),
    TrlMetric("completions/mean_terminated_length", "mean length of those that ended", _NO_END, if_unmeasured=0.0),
    TrlMetric("completions/min_terminated_length", "shortest of those", _NO_END, if_unmeasured=0.0),
    TrlMetric("completions/max_terminated_length", "longest of those", _NO_END, if_unmeasured=0.0),
    TrlMetric("kl", "KL to the reference (k3), mean over tokens; only with beta", _OVER_PASSES),
    TrlMetric(
        "entropy",
        "mean entropy of the next token",
        f"{_OVER_PASSES}; None where a step needs no pass: no group has signal",
        is_always=True,
    ),
    TrlMetric("clip_ratio/low_mean", "share of tokens below the lower clip", _OVER_PASSES),
    TrlMetric("clip_ratio/low_min", "smallest such share of a completion", "TRL means over micro-batches"),
    TrlMetric("clip_ratio/high_mean", "share of tokens above the upper clip", _OVER_PASSES),
    TrlMetric("clip_ratio/high_max", "largest such share of a completion", "TRL means over micro-batches"),
    TrlMetric("clip_ratio/region_mean", "both together", _OVER_PASSES),
    TrlMetric("sampling/sampling_logp_difference/mean", "mean |sampler's - learner's log-prob|; only with vLLM"),
    TrlMetric("sampling/sampling_logp_difference/max", "largest; only with vLLM"),
    TrlMetric("sampling/importance_sampling_ratio/min", "smallest weight of the correction; only with vLLM"),
    TrlMetric("sampling/importance_sampling_ratio/mean", "mean; only with vLLM"),
    TrlMetric("sampling/importance_sampling_ratio/max", "largest; only with vLLM"),
    TrlMetric("policy_loss", "the loss without the entropy bonus; only with it", "always, and without the KL term"),
    TrlMetric("entropy_coef", "weight of the entropy bonus; only with it", "always"),
    TrlMetric("aux_loss", "load-balancing loss of mixtures of experts", "never: no such loss is added"),
    TrlMetric("cispo_clip_ratio", "share of tokens above the cap of CISPO", "never: `clip_ratio/high_mean` has it"),
    TrlMetric("vespo/phi_seq_mean", "mean weight of VESPO", "never: `ratio/max` is near"),
    TrlMetric("tools/call_frequency", "tool calls a completion; only with tools"),
    TrlMetric("tools/failure_frequency", "share of calls that failed; only with tools"),
    TrlMetric("<name>", "what a reward function gave to `log_metric`", "`extra/<name>` in the run folder"),
)

_BY_KEY = {metric.key: metric for metric in TRL_METRICS}


def of_step(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a step under TRL's definitions; keys that TRL does not have stay as they are."""
    own = {key.removeprefix(_EXTRA): value for key, value in record.items() if key.startswith(_EXTRA)}
    numbers = {key: value for key, value in record.items() if not key.startswith(_EXTRA)}
    numbers = {**own, **numbers}  # a name of a user's own never hides a metric
    for metric in TRL_METRICS:
        if metric.source:
            numbers[metric.key] = record.get(metric.source)
        if metric.if_unmeasured is not None and numbers.get(metric.key) is None:
            numbers[metric.key] = metric.if_unmeasured
    return numbers


def is_always(key: str) -> bool:
    """Whether TRL logs the key, as None, where nothing was measured."""
    head, _, tail = key.rpartition("/")
    known = f"rewards/<function>/{tail}" if head.startswith("rewards/") else key
    return known in _BY_KEY and _BY_KEY[known].is_always
