"""The table of signs: what the doctor looks for, from which value on, and why that value.

`docs/make_tables.py` makes docs/doctor.md from this table.
"""

from __future__ import annotations

from groupwise.config.guards import BY_NAME
from groupwise.diagnose import (
    answer_signs,
    draw_signs,
    length_signs,
    policy_signs,
    reward_signs,
    signal_signs,
    time_signs,
)
from groupwise.diagnose.correlation import CONFLICT, FEWEST_PAIRS, SURE
from groupwise.diagnose.diagnosis import Sign

_END = "over the end of the run (the last quarter of its steps, 5 to 50 of them)"
_CLEARLY = "clearly is beyond twice its standard error"

SIGNS = (
    Sign(
        "reward_constant",
        signal_signs.reward_constant,
        "no completion differs from its own group in its reward, and it is not 0 or less everywhere",
        f"{signal_signs.FEWEST_GROUPS} groups or more, none with signal",
        "the definition of signal; 0 everywhere may be failure, see `all_failed`",
    ),
    Sign(
        "reward_noisy",
        reward_signs.reward_noisy,
        "equal completions of a group, token by token, get different numbers from one function",
        f"{reward_signs.FEWEST_NOISY} pairs",
        "a function of the completion has none; one pair may be a clock",
    ),
    Sign(
        "one_answer",
        answer_signs.one_answer,
        "one answer to different prompts, more often than the commonest right answer in the data",
        f"{answer_signs.ONE_ANSWER:.0%} of the last completions, {answer_signs.FEWEST_PROMPTS} prompts or more, and "
        f"{answer_signs.BEYOND_DATA:.0%} above the share in the data where they have a column of answers",
        "ours: four of five the same; a policy that answers as often as the data do has not collapsed",
    ),
    Sign(
        "exploit_learnt",
        answer_signs.exploit_learnt,
        "completions that `groupwise check` tries on the rewards: "
        f"{', '.join(answer_signs.EXPLOITS)}; they are paid no less than the others",
        f"{answer_signs.HACKED:.0%} of the last completions, {answer_signs.RISEN:.0%} more than of the first",
        "ours: a third cannot be an accident, and an untrained model may write some",
    ),
    Sign(
        "repeated_phrase",
        answer_signs.repeated_phrase,
        "completions that repeat themselves and are paid no less than the others",
        f"at most {answer_signs.DISTINCT:.0%} of their sequences of three tokens are different; "
        f"{answer_signs.HACKED:.0%} of the last completions, {answer_signs.RISEN:.0%} more than of the first",
        "a phrase that is said three times leaves a third of them",
    ),
    Sign(
        "engine_differs",
        policy_signs.engine_differs,
        "`sampling/mismatch`, the median of the run",
        f"above {BY_NAME['agreement'].default.threshold:g} in float32, {BY_NAME['precision'].default.threshold:g} in "
        "lower precision",
        "the bounds of the guards `agreement` and `precision`",
    ),
    Sign(
        "stale_weights",
        policy_signs.stale_weights,
        "`staleness/max` beyond `rollout_lag`; or the gap between engine and learner grows; or with a lag few samples "
        "are effective",
        f"above `rollout_lag`; {BY_NAME['mismatch'].default.threshold:g} times the first steps' gap; below "
        f"{policy_signs.EFFECTIVE:g}",
        "the loop's own promise; the bound of the guard `mismatch`; that of the metric",
    ),
    Sign(
        "all_failed",
        signal_signs.all_failed,
        "groups without signal in which everything gets the lowest reward",
        f"{signal_signs.NO_SIGNAL:.0%} of the groups without signal {_END}, two thirds of them failed",
        "three groups of four are sampled for nothing",
    ),
    Sign(
        "all_solved",
        signal_signs.all_solved,
        "the same with the highest reward, where nothing was learnt before",
        f"{signal_signs.NO_SIGNAL:.0%}, two thirds of them solved",
        "as above; a run that has learnt all there is has no fault",
    ),
    Sign(
        "group_too_small",
        signal_signs.group_too_small,
        "the same, and a larger G would find what this one misses",
        f"{signal_signs.NO_SIGNAL:.0%} without signal; expected signal below {signal_signs.HALF:.0%} at this G and "
        f"above it at a larger one (up to {signal_signs.OTHER_SIZES[-1]})",
        "1 - sum of (frequency of a reward)^G, as in `groupwise check`",
    ),
    Sign(
        "always_or_never",
        signal_signs.always_or_never,
        "the same, some groups solved and some failed, where a larger G would not help",
        f"{signal_signs.NO_SIGNAL:.0%} without signal",
        "as above",
    ),
    Sign(
        "often_unscored",
        reward_signs.often_unscored,
        "`reward_unscored`",
        f"{reward_signs.UNSCORED:.0%} {_END}",
        "the bound of `groupwise check`",
    ),
    Sign(
        "functions_conflict",
        reward_signs.functions_conflict,
        "rank correlation of two functions inside groups",
        f"{CONFLICT:g} or less, {SURE:g} standard errors from 0, {FEWEST_PAIRS} completions or more",
        "each takes back half of the order that the other gives; the bound of `groupwise check`",
    ),
    Sign(
        "only_format_learnt",
        reward_signs.only_format_learnt,
        "one function has clearly risen to its best, another one has not clearly risen and is low",
        f"at {reward_signs.LEARNT:.0%} of the way from its lowest to its highest reward; at "
        f"{reward_signs.NOT_LEARNT:.0%} or less",
        "what is left to learn of the first is less than a tenth",
    ),
    Sign(
        "function_dominates",
        reward_signs.function_dominates,
        "the share of one function in the spread of rewards inside groups, while another one does not rise",
        f"{reward_signs.DOMINATES:.0%}, {reward_signs.FEWEST_GROUPS} groups with signal or more",
        "all others together turn one advantage in ten",
    ),
    Sign(
        "held_out_still",
        reward_signs.held_out_still,
        "the training reward rises clearly, and the held-out reward by less than half as much, two of its standard "
        "errors added",
        f"{reward_signs.HELD_OUT_SHARE:.0%} of the gain in training",
        f"the noise is given to the run; {_CLEARLY}",
    ),
    Sign(
        "length_grows",
        length_signs.length_grows,
        "the mean length rises clearly to the limit, and the reward does not",
        f"{length_signs.GROWN:g} times the first steps' length, {length_signs.NEAR_LIMIT:.0%} of max_completion_length",
        "Dr. GRPO (arXiv 2503.20783): wrong answers grow to the limit; the numbers are rules of thumb",
    ),
    Sign(
        "length_collapses",
        length_signs.length_collapses,
        "the mean length falls clearly, and the reward does not rise",
        f"{length_signs.SHRUNK:g} times the first steps' length",
        "a rule of thumb: the demo shrinks to an eighth, and its reward rises",
    ),
    Sign(
        "truncation_costs",
        length_signs.truncation_costs,
        "completions cut off, not clearly fewer than at first, and paid less than those that end, or masked; or all "
        "are cut off, and the reward does not rise",
        f"{length_signs.CUT:.0%} {_END}, after {length_signs.FEWEST_STEPS} steps; two standard errors",
        "the bound of the metric `completions/clipped_ratio`",
    ),
    Sign(
        "kl_explodes",
        policy_signs.kl_explodes,
        "the KL to the reference rises clearly and the reward does not; or it is beyond what the guard `kl` takes",
        f"{policy_signs.KL_FAR:g} nats a token; {BY_NAME['kl'].default.threshold:g}",
        "the demo learns at 1.0 to 3.2, so a far policy alone is no fault",
    ),
    Sign(
        "policy_stands_still",
        policy_signs.policy_stands_still,
        "half of the groups carry signal, the reward does not rise, and the KL (where none is measured the learning "
        "rate) is next to nothing",
        f"below {policy_signs.KL_STILL:g} nats a token after {policy_signs.STILL_STEPS} steps and a quarter of the "
        f"run; {policy_signs.LOW_RATE[True]:g} for an adapter, {policy_signs.LOW_RATE[False]:g} for every weight",
        "the bound of the metric `kl`; a tenth of the usual learning rates",
    ),
    Sign(
        "entropy_collapses",
        policy_signs.entropy_collapses,
        "the entropy falls clearly to next to nothing, while half of the groups have no signal and are not solved",
        f"{policy_signs.ENTROPY_LOW:g} nats a token and {policy_signs.ENTROPY_LEFT:.0%} of the first steps'",
        "Skywork-OR1 (arXiv 2505.22312) acts below 0.2; short answers to solved problems lie lower",
    ),
    Sign(
        "gradient_spikes",
        policy_signs.gradient_spikes,
        "gradient norms far above their median",
        f"{policy_signs.SPIKE:g} times, {policy_signs.SPIKES} steps and one in fifty or more, of "
        f"{policy_signs.STILL_STEPS} or more",
        "the bound of the metric `grad_norm`",
    ),
    Sign(
        "clip_share_off",
        policy_signs.clip_share_off,
        "`clip_ratio/region_mean`: too large, or with several updates a rollout never above 0 in a run that does not "
        "learn",
        f"above {policy_signs.CLIPPED[True]:.0%} of tokens, {policy_signs.CLIPPED[False]:.0%} of completions; "
        f"{policy_signs.CLIPPED_ON_POLICY:.0%} with one update a rollout",
        "GSPO, arXiv 2507.18071; with one update the ratio is 1 but for rounding",
    ),
    Sign(
        "curriculum_stuck",
        draw_signs.curriculum_stuck,
        "one level whose success rate neither rises nor reaches the next level; or a pool of hard problems that takes "
        "most",
        f"{draw_signs.STUCK_STEPS} steps; {draw_signs.ONE_POOL:.0%} of the problems",
        "ours",
    ),
    Sign(
        "dropping_costs",
        draw_signs.dropping_costs,
        "the rollout time of groups that dynamic sampling dropped, as a share of all steps' time",
        f"{draw_signs.DROPPED_TIME:.0%}",
        "more than the groups that were used took together",
    ),
    Sign(
        "reward_slow",
        time_signs.reward_slow,
        "waiting for rewards takes longer than sampling",
        f"and {time_signs.SLOW_SECONDS:g} s a step or more",
        "faster ones are not worth the work; the bound of `groupwise check`",
    ),
    Sign(
        "straggler_holds",
        time_signs.straggler_holds,
        "the part of the longest completion that comes after nine of ten have ended, where the rollout takes "
        f"{time_signs.ROLLOUT_SHARE:.0%} of the time or more",
        f"{time_signs.ALONE:.0%} in the mean of the steps that are read",
        "from here on the stragglers take longer than all others together",
    ),
)
"""What makes other signs first: it is to be mended first."""
