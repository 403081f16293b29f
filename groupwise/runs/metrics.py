"""Every key of `metrics.jsonl`: unit, definition, healthy range and where that range comes from.

`docs/make_tables.py` makes docs/metrics.md from this table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down", "steady", "zero", "none"]
"""Where the number should go while a run learns; "none": it has a meaning only beside other metrics."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One key, or a family of keys with `<name>` where the name of a reward function stands."""

    key: str
    unit: str
    definition: str
    better: Direction = "none"
    healthy: str = ""
    source: str = ""
    is_last: bool = False
    """Whether a log entry of several steps has the value of the last one; else it has their mean."""

    def matches(self, key: str) -> bool:
        pattern = re.sub(r"<[a-z_]+>", "(.+)", re.escape(self.key))
        return re.fullmatch(pattern, key) is not None


_PROGRESS = (
    Metric("step", "count", "Steps finished: one step is one rollout and the updates it pays for.", "up", is_last=True),
    Metric("epoch", "passes", "Passes over the data so far, in fractions.", "up", is_last=True),
    Metric("updates", "count", "Optimizer steps so far.", "up", is_last=True),
    Metric(
        "policy_version",
        "count",
        "Version of the weights after this step; 0 is the model as it was handed in.",
        "up",
        is_last=True,
    ),
    Metric(
        "num_tokens",
        "tokens",
        "Prompt and completion tokens so far, each prompt counted once a completion.",
        "up",
        is_last=True,
    ),
)

_LEARNING = (
    Metric(
        "loss",
        "-",
        "Value of the objective that was minimised. With one update a rollout the policy term is 0 by construction, so "
        "the loss is beta x KL: it starts at 0 and rises while the model learns. Read the reward instead.",
        "none",
        "near 0, rising with beta x KL",
        "TRL #2703, #3452; Hugging Face LLM course, chapter 12",
    ),
    Metric("policy_loss", "-", "Its policy term: what the advantages contribute. Near 0 on-policy."),
    Metric("kl_loss", "-", "Its KL term: beta x KL as the objective weighs tokens.", "none"),
    Metric("entropy_loss", "-", "Its entropy term: minus the coefficient times the mean entropy.", "none"),
    Metric(
        "reward",
        "reward",
        "Mean over the step's completions of the weighted sum of the reward functions. The curve to read.",
        "up",
        "rises; compare with eval_reward, which it need not follow",
        "DAPO, arXiv 2503.14476: training reward correlates poorly with validation",
    ),
    Metric(
        "reward_std",
        "reward",
        "Mean over groups of the standard deviation of the reward inside the group.",
        "none",
        "above 0: at 0 there is nothing to learn from",
        "DAPO, arXiv 2503.14476",
    ),
    Metric("reward_std/step", "reward", "Sample standard deviation of the reward over all completions of the step."),
    Metric(
        "frac_reward_zero_std",
        "share",
        "Groups whose scored rewards are equal up to rounding (or fewer than two): they have no signal.",
        "down",
        "below 0.5; at 1 the step changes nothing (without KL)",
        "TRL #3857; keep the pass rate in 12.5-50%, INTELLECT-2, arXiv 2505.07291",
    ),
    Metric(
        "frac_reward_zero_std/solved",
        "share",
        "Those of them in which every completion has the highest reward: what the functions can give, where that is "
        "known (the shipped ones, and a function with an attribute `highest`), else the highest of the run so far, "
        "once there was a lower one.",
        "none",
        "shows whether the problems are too easy or too hard",
        "ScaleRL, arXiv 2510.13786: problems solved in 90% of the answers teach nothing",
    ),
    Metric(
        "frac_reward_zero_std/drawn",
        "share",
        "The same share over all groups drawn, those that dynamic sampling dropped included.",
        "down",
        "1 / (1 - it) is what dynamic sampling costs",
        "DAPO, arXiv 2503.14476",
    ),
    Metric("reward_unscored", "share", "Completions that no reward function scored.", "zero"),
    Metric("rewards/<function>/mean", "reward", "Mean of one reward function, before its weight.", "up"),
    Metric(
        "rewards/<function>/std",
        "reward",
        "Sample standard deviation of one reward function over the step's completions.",
    ),
    Metric(
        "rewards/<function>/counted",
        "reward",
        "Mean of what counts of one function's rewards once they are clipped, normalised or gated, before its weight; "
        "there for such functions alone.",
        "up",
    ),
    Metric("rewards/<function>/seconds", "s", "Time one reward function took in this step.", "down"),
    Metric(
        "rewards/<function>/unscored",
        "share",
        "Completions that the function returned None (or NaN) for; they are left out of its mean, never counted as 0.",
        "zero",
        "0; a judgement that fails often hides a broken reward",
        "a None turned into 0 shifts the baseline",
    ),
    Metric(
        "kl",
        "nats/token",
        "Distance from the reference policy (k3 estimator), mean over completion tokens; null without a reference.",
        "steady",
        "rises slowly; up while the reward stands still: stop, or lower the learning rate; above 1 in the first "
        "steps: learning rate too high; below 1e-4 after 20 steps: too low",
        "arXiv 2512.21852; thresholds are rules of thumb",
    ),
    Metric(
        "kl/k1",
        "nats/token",
        "Mean log-ratio of policy to reference: the plain estimate of the same KL; may be negative.",
    ),
    Metric("beta", "-", "Weight of the KL term in the loss of this step (adaptive with `kl_target`)."),
    Metric("entropy_coef", "-", "Weight of the entropy bonus in the step's last update (adaptive or fixed)."),
    Metric(
        "entropy",
        "nats/token",
        "Mean entropy of the policy's next-token distribution, over the completion tokens of the passes; of a step "
        "that makes none, as no group has signal, over one completion a group.",
        "steady",
        "a slow upward trend is healthy; a fall below 0.2-0.5 leaves nothing to explore",
        "DAPO, arXiv 2503.14476; arXiv 2505.22617; Skywork-OR1, arXiv 2505.22312",
    ),
)

_UPDATE = (
    Metric(
        "clip_ratio/low_mean",
        "share",
        "Loss tokens whose gradient the lower clip zeroed (ratio below 1 - epsilon, negative advantage).",
        "steady",
        "exactly 0 with one update a rollout; else 0.001-0.2 for token ratios, 100 times that for sequence ratios",
        "GSPO, arXiv 2507.18071; range is a rule of thumb",
    ),
    Metric(
        "clip_ratio/high_mean",
        "share",
        "Loss tokens whose gradient the upper clip zeroed (ratio above 1 + epsilon_high, positive advantage).",
        "steady",
        "as clip_ratio/low_mean",
        "GSPO, arXiv 2507.18071",
    ),
    Metric(
        "clip_ratio/region_mean",
        "share",
        "Both together.",
        "steady",
        "as clip_ratio/low_mean; not 0 at the first update of a step: old and new log-probs disagree",
        "GSPO, arXiv 2507.18071",
    ),
    Metric(
        "clip_ratio/low_min",
        "share",
        "The same for the lower clip, by completion: the smallest share of a completion's loss tokens.",
    ),
    Metric(
        "clip_ratio/high_max",
        "share",
        "The same for the upper clip, by completion: the largest share of a completion's loss tokens.",
    ),
    Metric(
        "ratio/max",
        "-",
        "Largest probability ratio of a token, policy now against the start of the step.",
        "steady",
        "1 with one update a rollout; below 3-5",
        "verl's dual clip at 3; INTELLECT-2's delta of 4, arXiv 2505.07291",
    ),
    Metric(
        "advantages/max",
        "-",
        "Largest absolute advantage of the step.",
        "none",
        "at most (G - 1)/sqrt(G) with group-std scaling (2.475 for G = 8)",
        "follows from the formula",
    ),
    Metric(
        "grad_norm",
        "-",
        "Euclidean norm of the gradient before clipping; the mean over the step's updates.",
        "steady",
        "no spikes above 10 times its usual value",
        "INTELLECT-2, arXiv 2505.07291: creeping up before a collapse",
        is_last=True,
    ),
    Metric(
        "learning_rate",
        "-",
        "Learning rate of the step's last update.",
        "none",
        "about 1e-6 for all weights; ten times that for LoRA",
        "Thinking Machines, LoRA Without Regret; TRL's LoRA table",
        is_last=True,
    ),
    Metric(
        "masked_ratio", "share", "Sampled tokens whose policy term a mask silenced (truncated, off-policy, entropy)."
    ),
    Metric("groups_used", "count", "Groups that the update used."),
    Metric("groups_dropped", "count", "Groups drawn and then dropped for want of signal (dynamic sampling)."),
)

_CURRICULUM = (
    Metric("curriculum/easy", "share", "Problems of the easy pool: always solved, drawn seldom.", "up"),
    Metric("curriculum/learning", "share", "Problems that are drawn as ever.", "steady"),
    Metric("curriculum/hard", "share", "Problems of the hard pool: never solved, drawn seldom.", "down"),
    Metric("curriculum/level", "-", "Level that problems are drawn from, after the step.", "up", is_last=True),
    Metric("curriculum/level_success", "share", "Mean success rate of the last groups at this level.", "steady"),
)

_COMPLETIONS = (
    Metric("completions/mean_length", "tokens", "Mean length, the end token included.", "steady"),
    Metric("completions/min_length", "tokens", "Shortest completion.", "steady"),
    Metric("completions/max_length", "tokens", "Longest completion.", "steady"),
    Metric("completions/mean_terminated_length", "tokens", "Mean length of those that ended by themselves.", "steady"),
    Metric("completions/min_terminated_length", "tokens", "Shortest of those.", "steady"),
    Metric("completions/max_terminated_length", "tokens", "Longest of those.", "steady"),
    Metric(
        "completions/mean_length_positive_advantage",
        "tokens",
        "Mean length of completions that beat their group; with 0 / 1 rewards, of right answers.",
        "steady",
    ),
    Metric(
        "completions/mean_length_negative_advantage",
        "tokens",
        "Mean length of completions that their group beat.",
        "steady",
        "rising to the limit while the other stays: length bias",
        "Dr. GRPO, arXiv 2503.20783",
    ),
    Metric("completions/dropped", "count", "Completions sampled and scored, then dropped with their groups.", "down"),
    Metric(
        "staleness/max",
        "versions",
        "Steps between the weights that sampled and those that are trained, the oldest completion.",
        "zero",
        "0: this loop samples and trains in turn",
        "follows from the loop",
    ),
    Metric(
        "completions/clipped_ratio",
        "share",
        "Completions cut off at max_completion_length.",
        "down",
        "below 0.5",
        "Dr. GRPO, arXiv 2503.20783 (wrong answers grow to the limit); the number is a rule of thumb",
    ),
    Metric(
        "completions/distinct_answers",
        "share",
        "How often the answers to two different prompts of the step differ, divided by how often the data's own "
        "answers to them do; without answers in the data, how often they differ. An answer is what stands in a tag, "
        'a box, after "####" or "the answer is", else the whole text; case, white space and punctuation around it do '
        "not count. Null where nothing can be compared, and with an environment.",
        "none",
        "1 where answers are right; near 0: one answer for every prompt (guard one_answer)",
        "ours: a collapse to the commonest answer raises reward and held-out reward",
    ),
    Metric("prompts_truncated", "count", "Prompts of this step cut from the left to max_prompt_length.", "zero"),
)

_MISMATCH = (
    Metric(
        "sampling/mismatch",
        "-",
        "Mean, over the passes, of exp |rollout_logprob - learner's log-prob of the same weights|.",
        "steady",
        "1.00-1.01; above 1.05 the two sides compute different things; climbing past 1.02: stale weights in the engine",
        "NVIDIA NeMo-RL's guides",
    ),
    Metric(
        "sampling/kl",
        "nats/token",
        "KL of engine and learner (k3) on the sampled tokens.",
        "down",
        "below 0.001",
        "NeMo-RL guides",
    ),
    Metric(
        "sampling/effective_share",
        "share",
        "Samples left effective by the ratio learner / engine: (sum w)^2 / (n sum w^2).",
        "up",
        "above 0.3",
        "verl documentation, rollout correction",
    ),
    Metric(
        "sampling/importance_sampling_ratio/min", "-", "Smallest weight that corrects the mismatch, where one is on."
    ),
    Metric("sampling/importance_sampling_ratio/mean", "-", "Mean weight that corrects the mismatch, where one is on."),
    Metric("sampling/importance_sampling_ratio/max", "-", "Largest such weight."),
    Metric("sampling/importance_sampling_ratio/clipped", "share", "Tokens whose weight was cut to its bound, or to 0."),
    Metric(
        "sampling/sampling_logp_difference/mean",
        "nats",
        "Mean of |rollout_logprob - learner's log-prob|.",
        "zero",
        "below 0.01",
        "tinker's documentation (KL of sampler and trainer below 0.01)",
    ),
    Metric(
        "sampling/sampling_logp_difference/max",
        "nats",
        "Largest |rollout_logprob - learner's log-prob| of a token.",
        "zero",
    ),
)

_COST = (
    Metric("step_time", "s", "The whole step; evaluation and checkpoints not included.", "down"),
    Metric("time/rollout", "s", "Sampling, and loading the new weights into the engine.", "down"),
    Metric("time/publish", "s", "With servers: writing the new weights until every server holds them.", "down"),
    Metric("servers/live", "count", "Servers that sample.", "up"),
    Metric("servers/repeats", "count", "Requests of the step that failed and were sent again.", "down"),
    Metric(
        "servers/probe_gap",
        "-",
        "Mean exp |difference| of the log-probs of the probe, of the server furthest from the learner; 1 is equal.",
        "down",
    ),
    Metric("time/reward", "s", "Waiting for the reward functions (scoring overlaps with sampling).", "down"),
    Metric("time/learn", "s", "Scoring and updating.", "down"),
    Metric("time/other", "s", "The rest of step_time.", "down"),
    Metric("time/eval", "s", "The evaluation after this step, beside step_time.", "down"),
    Metric("tokens_per_second", "tokens/s", "Completion tokens of the step / step_time.", "up"),
    Metric("rollout_tokens_per_second", "tokens/s", "Completion tokens of the step / time/rollout.", "up"),
    Metric("learn_tokens_per_second", "tokens/s", "Completion tokens trained on / time/learn.", "up"),
    Metric(
        "memory_peak_bytes",
        "bytes",
        "Peak memory so far: of the accelerator, or of the process on a CPU.",
        "down",
        is_last=True,
    ),
)

LENGTHS = (
    *("mean_length", "min_length", "max_length"),
    *("mean_terminated_length", "min_terminated_length", "max_terminated_length", "clipped_ratio"),
)
"""What an evaluation measures of the lengths of its completions."""

_EVALUATION = (
    Metric(
        "eval_reward",
        "reward",
        "Mean reward of sampled completions of held-out problems.",
        "up",
        "rises with reward; a gap that widens is overfitting or reward hacking",
        "DAPO, arXiv 2503.14476",
    ),
    Metric("eval_reward_stderr", "reward", "Its standard error over problems; two of them are about a 95% interval."),
    Metric("eval_greedy_reward", "reward", "The same with greedy completions (temperature 0), one a problem.", "up"),
    Metric("eval_greedy_reward_stderr", "reward", "Its standard error over problems."),
    Metric("eval_reward_std", "reward", "Sample standard deviation of the reward over all sampled completions."),
    Metric("eval_frac_reward_zero_std", "share", "Held-out problems whose sampled rewards are equal up to rounding."),
    Metric("eval_rewards/<function>/mean", "reward", "Mean of one reward function on held-out problems.", "up"),
    Metric("eval_rewards/<function>/std", "reward", "Its sample standard deviation over the completions."),
    Metric(
        "eval_completions/<length>",
        "tokens",
        "`mean_length`, `min_length`, `max_length` of the sampled completions; `mean_terminated_length`, ... of those "
        "that ended by themselves; `clipped_ratio`, the share that was cut off.",
    ),
    Metric(
        "eval_gold_logprob",
        "nats/token",
        "Log-prob of the data's own answer as the whole completion, without an end token: the mean over its tokens "
        "(max_completion_length at most), then over the held-out problems that have one. There where the data has "
        "answers that a reward reads, and no environment answers.",
        "up",
        "rises where the answer is all that is written; tells little where reasoning comes first",
        "ours: the probability of the right answer moves before the first right answer is sampled",
    ),
    Metric(
        "eval_loss",
        "-",
        "The loss on the sampled completions as TRL has it; of scripts that import from `groupwise.trl` alone.",
    ),
    Metric("eval_environment/<key>", "-", "The same of turns and environments on held-out problems."),
    Metric("eval_tools/<key>", "-", "The same of calls of tools."),
    Metric("eval_samples_per_second", "1/s", "Sampled completions / time/eval.", "up"),
    Metric("eval_steps_per_second", "1/s", "Held-out problems / time/eval.", "up"),
    Metric("eval_<set>_reward", "reward", "The same of one of several evaluation sets; and so on for each key.", "up"),
    Metric("eval_<set>_<key>", "-", "Any other key of an evaluation, of that set."),
    Metric("time/eval_<set>", "s", "The evaluation of that set after this step, beside step_time.", "down"),
)

_TURNS = (
    Metric("environment/turns/mean", "count", "Turns of a completion, with an environment.", "none"),
    Metric("environment/turns/max", "count", "Turns of the completion that has most.", "none"),
    Metric("environment/seconds", "s", "Mean seconds of an answer; those of a round run at once.", "down"),
    Metric(
        "environment/failed",
        "share",
        "Completions whose environment failed. They are unscored, and above half of a step the run ends.",
        "zero",
    ),
    Metric(
        "environment/start_differs",
        "share",
        "Completions of groups whose environments began differently, although their seed was the same.",
        "zero",
    ),
    Metric("environment/observations_cut", "share", "Turns whose answer was cut to max_observation_length.", "zero"),
    Metric("completions/given_tokens", "tokens", "Mean tokens of a completion that nobody sampled.", "steady"),
    Metric("completions/out_of_turns", "share", "Completions cut off after max_turns.", "down"),
    Metric("tools/call_frequency", "count", "Calls of tools in a completion.", "none"),
    Metric("tools/failure_frequency", "share", "Calls that failed: malformed ones, and those whose tool did.", "down"),
)

_OWN = (Metric("extra/<name>", "-", "Whatever a reward function logged under that name with `log_metric`."),)

SECTIONS = {
    "Progress": _PROGRESS,
    "Does it learn": _LEARNING,
    "The update": _UPDATE,
    "The curriculum": _CURRICULUM,
    "Completions": _COMPLETIONS,
    "Turns and environments": _TURNS,
    "Sampler against learner": _MISMATCH,
    "Time and memory": _COST,
    "Evaluation": _EVALUATION,
    "Your own": _OWN,
}

METRICS: tuple[Metric, ...] = tuple(metric for section in SECTIONS.values() for metric in section)


def evaluation_keys(prefix: str, functions: Iterable[str]) -> list[str]:
    """The keys of every number of an evaluation set whose keys begin with `prefix`, in the order of the table; without
    those of environments and tools."""
    members = {"<function>": list(functions), "<length>": LENGTHS}
    found: list[str] = []
    for metric in _EVALUATION:
        if metric.key.startswith("eval_") and "<set>" not in metric.key and "<key>" not in metric.key:
            family = next((name for name in members if name in metric.key), None)
            found += [metric.key] if family is None else [metric.key.replace(family, m) for m in members[family]]
    return [prefix + key.removeprefix("eval") for key in found]


def held_out_rewards(keys: Iterable[str]) -> list[tuple[str, str]]:
    """(label, key) of every mean reward of an evaluation among the keys of records, in their order."""
    found = {}
    for key in dict.fromkeys(keys):
        match = _HELD_OUT.fullmatch(key)
        if match is not None:
            kind = "greedy" if match["greedy"] else "sampled"
            found[key] = f"{match['set']}, {kind}" if match["set"] else kind
    return [(label, key) for key, label in found.items()]


_HELD_OUT = re.compile("eval_(?:(?P<set>.+?)_)??(?P<greedy>greedy_)?reward")


def find(key: str) -> Metric | None:
    """The line of the table that describes `key`."""
    return next((metric for metric in METRICS if metric.matches(key)), None)


def unknown_keys(metrics: Iterable[str]) -> list[str]:
    """Keys of a step's record that the table does not know, sorted."""
    return sorted(key for key in metrics if key != "schema_version" and find(key) is None)
