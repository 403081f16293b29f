"""The metrics of one step, from its `StepResult`. `docs/metrics.md` explains every key."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from groupwise.rounding import reaches
from groupwise.train.collect import Collected
from groupwise.train.step import StepResult
from groupwise.types import Completion, Group, StepGroup

MEASURED_BY_PASSES = (
    "kl",
    "entropy",
    "ratio/max",
    "sampling/mismatch",
    "sampling/sampling_logp_difference/mean",
    "sampling/sampling_logp_difference/max",
)
"""Null in the record of a step that the learner made no pass for: no group had signal and nothing else acts. The
entropy is measured there on its own, where a completion has a token."""


def step_metrics(result: StepResult) -> dict[str, Any]:
    """Everything that is measured of a step, without counters of the whole run."""
    step, collected, update, times = result.step, result.collected, result.update, result.timing
    sampled = sum(c.num_sampled for g in collected.all_groups for c in g.completions)
    trained = sum(c.num_sampled for g in collected.groups for c in g.completions)
    return {
        "step": step,
        **rewards(collected),
        **dict.fromkeys(MEASURED_BY_PASSES),
        **update.stats,
        "advantages/max": max(abs(a) for g in result.used_groups for a in g.advantages),
        "grad_norm": update.grad_norm,
        "learning_rate": update.learning_rate,
        **_lengths(result.used_groups),
        **turns([c for g in collected.groups for c in g.completions]),
        **times,
        "tokens_per_second": sampled / times["step_time"],
        "learn_tokens_per_second": trained / times["time/learn"] if times["time/learn"] else None,
        "rollout_tokens_per_second": sampled / times["time/rollout"] if times["time/rollout"] else None,
        "groups_used": len(collected.groups),
        "groups_dropped": len(collected.dropped),
        "completions/dropped": sum(len(g.completions) for g in collected.dropped),
        "staleness/max": max(step - 1 - c.policy_version for g in collected.groups for c in g.completions),
        "prompts_truncated": collected.num_truncated_prompts,
        **{f"extra/{name}": value for name, value in collected.logged.items()},
    }


def rewards(collected: Collected) -> dict[str, float | None]:
    """Reward metrics over the groups trained on: means over completions, spread inside groups."""
    groups = collected.groups
    metrics: dict[str, float | None] = {"reward": mean_of_scored([r for g in groups for r in g.reward])}
    spreads = [deviation for g in groups if (deviation := spread(g.reward)) is not None]
    metrics["reward_std"] = fmean(spreads) if spreads else None
    metrics["reward_std/step"] = spread([r for g in groups for r in g.reward])
    metrics["reward_unscored"] = fmean(r is None for g in groups for r in g.reward)
    metrics |= _without_signal(collected)
    for name, seconds in collected.function_s.items():
        values = [r for g in groups for r in g.rewards[name]]
        metrics[f"rewards/{name}/mean"] = mean_of_scored(values)
        metrics[f"rewards/{name}/std"] = spread(values)
        metrics[f"rewards/{name}/seconds"] = seconds
        metrics[f"rewards/{name}/unscored"] = fmean(r is None for r in values)
        if name in groups[0].shaped:
            metrics[f"rewards/{name}/counted"] = mean_of_scored([r for g in groups for r in g.shaped[name]])
    return metrics


def _without_signal(collected: Collected) -> dict[str, float | None]:
    """Shares of groups without signal, of those used and of all that were drawn."""
    used = collected.without_signal()
    drawn = [g for g in collected.all_groups if not g.has_signal]
    return {
        "frac_reward_zero_std": len(used) / len(collected.groups),
        "frac_reward_zero_std/solved": None,  # read by what the run has seen so far
        "frac_reward_zero_std/drawn": len(drawn) / len(collected.all_groups),
    }


def solved_share(groups: Sequence[StepGroup], highest: float | None) -> float:
    """Share of the groups trained on that have no signal because all their rewards are the highest there is.

    `highest` is None where it is not known yet: no group is called solved.
    """
    used = [group for group in groups if group.is_used]
    alike = [[r for r in group.reward if r is not None] for group in used if not group.has_signal]
    solved = [rewards for rewards in alike if rewards and highest is not None and reaches(min(rewards), highest)]
    return len(solved) / len(used)


def mean_of_scored(values: Sequence[float | None]) -> float | None:
    """Mean of those that were scored; None for none."""
    scored = [v for v in values if v is not None]
    return fmean(scored) if scored else None


def spread(values: Sequence[float | None]) -> float | None:
    """Sample standard deviation of those that were scored; None for fewer than two."""
    scored = [v for v in values if v is not None]
    return stdev(scored) if len(scored) > 1 else None


def _lengths(groups: Sequence[StepGroup]) -> dict[str, float | None]:
    return {
        **lengths([c for g in groups for c in g.completions]),
        "completions/mean_length_positive_advantage": _mean_length(groups, 1),
        "completions/mean_length_negative_advantage": _mean_length(groups, -1),
    }


def lengths(completions: Sequence[Completion]) -> dict[str, float | None]:
    """Lengths in sampled tokens, of all completions and of those that ended by themselves; the share cut off."""
    counts = [c.num_sampled for c in completions]
    ended = [c.num_sampled for c in completions if not c.is_truncated]
    return {
        "completions/mean_length": fmean(counts),
        "completions/min_length": min(counts),
        "completions/max_length": max(counts),
        "completions/mean_terminated_length": fmean(ended) if ended else None,
        "completions/min_terminated_length": min(ended, default=None),
        "completions/max_terminated_length": max(ended, default=None),
        "completions/clipped_ratio": 1 - len(ended) / len(counts),
    }


def turns(completions: Sequence[Completion]) -> dict[str, float]:
    """What happened between the turns of completions; empty where no environment answered."""
    if not any(c.turns or c.stop_reason == "failed" for c in completions):
        return {}
    every = [turn for c in completions for turn in c.turns]
    calls = [call for turn in every for call in turn.calls]
    found = {
        "environment/turns/mean": len(every) / len(completions),
        "environment/turns/max": float(max(len(c.turns) for c in completions)),
        "environment/seconds": fmean(turn.seconds for turn in every) if every else 0.0,
        "environment/failed": fmean(c.stop_reason == "failed" for c in completions),
        "environment/start_differs": fmean(bool(c.turns) and c.turns[0].start > 0 for c in completions),
        "environment/observations_cut": fmean(turn.is_cut for turn in every) if every else 0.0,
        "completions/given_tokens": fmean(len(c.token_ids) - c.num_sampled for c in completions),
        "completions/out_of_turns": fmean(c.stop_reason == "turns" for c in completions),
    }
    if calls:
        found["tools/call_frequency"] = len(calls) / len(completions)
        found["tools/failure_frequency"] = fmean(call.error is not None for call in calls)
    return found


def _mean_length(groups: Sequence[StepGroup], sign: int) -> float | None:
    """Mean length of the completions whose advantage has that sign."""
    pairs = [(c, a) for g in groups for c, a in zip(g.completions, g.advantages, strict=True)]
    lengths = [c.num_sampled for c, advantage in pairs if advantage * sign > 0]
    return fmean(lengths) if lengths else None


def num_tokens(groups: Sequence[Group]) -> int:
    """Prompt and completion tokens, each prompt counted once a completion, as the ecosystem counts them."""
    return sum(len(g.prompt_ids) + len(c.token_ids) for g in groups for c in g.completions)
