"""Checks of the rewards, from the sampled completions and the probes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from groupwise.check.evidence import Evidence
from groupwise.check.finding import Finding, Level
from groupwise.check.reward_stats import OTHER_SIZES, Scores
from groupwise.diagnose.correlation import FEWEST_PAIRS
from groupwise.errors import RewardError, listed
from groupwise.rewards import RewardScorer
from groupwise.rewards.failure import TEXT_OF_A_CHAT
from groupwise.rewards.gold_answers import prompt_words
from groupwise.rewards.shaping_rules import Shaping
from groupwise.rounding import differ
from groupwise.train.collect import score_as_the_program

UNSCORED_FAIL, UNSCORED_WARN = 0.5, 0.1
"""Share of completions that a function returns None for. From half on, most groups have fewer scored members than
the group size that was paid for."""
SIGNAL_WARN = 0.5
"""Share of groups with signal: below half, most of the sampling is thrown away."""
REDUNDANT = 0.97
"""Rank correlation inside groups from which on the second function adds nothing but its weight."""
USUAL_GENERATIONS = 8
SLOW_SHARE, SLOW_SECONDS = 0.5, 1.0
"""A reward is slow when it takes more than half as long as sampling, and at least a second a step: faster ones are
not worth the work."""


def unscored(evidence: Evidence) -> list[Finding]:
    """A function that often returns None."""
    found = []
    for function in evidence.functions:
        if function.unscored < UNSCORED_WARN:
            continue
        level: Level = "fail" if function.unscored >= UNSCORED_FAIL else "warn"
        what = f'Reward "{function.name}" returns None (unscored) for {function.unscored:.0%} of the completions.'
        reason = evidence.usual_reason(function.name)
        if reason is not None:
            what += f' Its reason: "{reason}".'
        remedy = (
            "Mend the cause that the error names."
            if reason is not None
            else f"Let {function.name} return 0, not None, for an answer that it can read and that is wrong or "
            "missing; keep None for what nobody could judge."
        )
        found.append(Finding("unscored", level, what, remedy))
    return found


def gate_shut(evidence: Evidence) -> list[Finding]:
    """A gate that no completion opens, sampled or made up, the right answer included."""
    found = []
    for function in evidence.run.training_scorer.functions:
        gates = [*function.shaping.when, *function.shaping.unless]
        returned = {v for row in evidence.by_problem(function.name) for v in row}
        if not gates or not returned - {0.0} or any(evidence.counted(function.name)):
            continue
        said = ", ".join(f"{key} {bounds}" for key, bounds in _gates(function.shaping))
        what = (
            f'Reward "{function.name}" never counts: its gate ({said}) was open for no completion, sampled or made up.'
        )
        remedy = (
            f"See what {gates[0]} returns (the table of rewards), and set the bound of the gate to what it reaches."
        )
        found.append(Finding("gate_shut", "warn", what, remedy))
    return found


def _gates(shaping: Shaping) -> list[tuple[str, dict[str, float]]]:
    return [(key, dict(bounds)) for key in ("when", "unless") if (bounds := getattr(shaping, key))]


def constant_reward(evidence: Evidence) -> list[Finding]:
    """A function that gives every completion of every problem the same, the made-up ones too."""
    found = []
    for function in evidence.functions:
        values = {value for row in evidence.by_problem(function.name) for value in row}
        if len(values) != 1 or evidence.is_shipped(function.name):
            continue  # a shipped one that is never earned is no constant: see no_signal
        level: Level = "fail" if _none_differs(evidence) else "warn"
        what = (
            f'Reward "{function.name}" is {values.pop():g} for everything: for {evidence.sampled.num_completions} '
            "sampled completions and for every made-up one, the empty one included."
        )
        remedy = (
            f"Try a right answer in the form that {function.name} expects: groupwise reward RECIPE --completions FILE. "
            "If that is rewarded, have the prompt ask for the form, with an example; if not, mend the function or "
            "leave it out."
        )
        if _differs_on_texts(evidence, function.name):
            what += " Handed over as plain texts, they get different rewards."
            remedy = f"Read the text of a completion. {TEXT_OF_A_CHAT}"
        found.append(Finding("constant_reward", level, what, remedy))
    return found


def _differs_on_texts(evidence: Evidence, name: str) -> bool:
    """Whether a function that is constant on chats would not be where it was handed their texts."""
    inputs = evidence.run.inputs
    if isinstance(inputs.problems[0].prompt, str) or inputs.environment is not None:
        return False
    function = next(each for each in evidence.run.training_scorer.functions if each.name == name)
    alone = RewardScorer([replace(function, shaping=Shaping(), weight=1.0)], inputs.problems.column_names)
    groups = [*evidence.sampled.groups, *(each.group for each in evidence.probed)]
    as_texts = [replace(g, problem=replace(g.problem, prompt=prompt_words(g.problem.prompt))) for g in groups]
    try:
        scored = score_as_the_program(alone, as_texts, None).groups
    except RewardError:
        return False
    return any(differ(group.reward) for group in scored)


def ignores_completion(evidence: Evidence) -> list[Finding]:
    """A function whose reward depends on the problem alone, not on the completion."""
    found = []
    for function in evidence.functions:
        rows = [set(row) for row in evidence.by_problem(function.name) if row]
        if not rows or any(len(row) > 1 for row in rows) or len(set.union(*rows)) == 1:
            continue
        level: Level = "fail" if _none_differs(evidence) else "warn"
        what = (
            f'Reward "{function.name}" differs between problems and is the same for every completion of one: it reads '
            "the prompt or a column, not the completion, and its advantages are 0."
        )
        found.append(Finding("ignores_completion", level, what, f"Let {function.name} read completions."))
    return found


def same_for_all(evidence: Evidence) -> list[Finding]:
    """Functions that differ, and whose sum does not: each takes back what another gives."""
    differing = [each.name for each in evidence.functions if any(map(differ, evidence.by_problem(each.name)))]
    is_same = not evidence.can_differ and evidence.sampled.signal_share == 0 and evidence.total.scored
    if not is_same or not (differing or differ(evidence.total.scored)) or _none_differs(evidence):
        return []
    names = listed([each.name for each in evidence.functions])
    what = f"The sum of {names} is the same for every completion of a problem, sampled or made up"
    what += f", though {listed(differing)} differ." if differing else "."
    remedy = "Give them weights that do not cancel, or leave one out." if differing else "Add a reward that is earned."
    return [Finding("same_for_all", "fail", what, remedy)]


def _none_differs(evidence: Evidence) -> bool:
    """Whether no reward can tell two completions of a problem apart, as far as was tried; ours can for sure."""
    differing = any(map(differ, (row for each in evidence.functions for row in evidence.by_problem(each.name))))
    return not differing and not any(map(evidence.is_shipped, evidence.sampled.seconds))


def no_signal(evidence: Evidence) -> list[Finding]:
    """The rewards can differ, and every completion of the untrained model gets the same one."""
    rows, total = evidence.by_problem(None), evidence.total
    is_earned_by_none = not evidence.can_differ and not any(map(evidence.is_shipped, evidence.sampled.seconds))
    if not total.scored or evidence.sampled.signal_share > 0 or is_earned_by_none:
        return []
    best, num = max(max(row) for row in rows if row), len(total.scored)
    if differ(total.scored):
        return []
    what = (
        f"All {num} completions of the untrained model get {total.scored[0]:g}. Something better is rarer than one in "
        f"{max(num // 3, 1)}" + (f" (a made-up completion gets {best:g})." if best > total.scored[0] else ".")
    )
    remedy = (
        "Take easier problems (data.split), a prompt or place that the model keeps to, a larger model, or add a reward "
        "for a first step that it does take, such as {name: format, mode: soft}."
    )
    if evidence.labels:
        remedy = _first_step_to_labels(evidence.labels)
    elif evidence.num_generations < USUAL_GENERATIONS:
        remedy = f"Set num_generations: {USUAL_GENERATIONS}, which find what {evidence.num_generations} miss. {remedy}"
    return [Finding("no_signal", "fail", what, remedy)]


def _first_step_to_labels(labels: Sequence[str]) -> str:
    """A cold start where one of a few words is the answer: name them, show them, and pay for any of them first."""
    pattern = "|".join(re.escape(label) for label in labels)
    return (
        f"Have the prompt name the {len(labels)} answers and show an example of some; and pay a little for a text that "
        f"is any of them: {{name: regex, match: whole, pattern: ({pattern}), ignore_case: true, weight: 0.2}} "
        "(docs/own-data.md, the cold start)."
    )


def few_signals(evidence: Evidence) -> list[Finding]:
    """G is too small for how rarely rewards differ. It fails where a step would often have no group with signal."""
    total, size = evidence.total, evidence.num_generations
    share, expected = evidence.sampled.signal_share, total.expected_signal(size)
    if not _has_few(evidence) or expected >= SIGNAL_WARN:
        return []
    what = f"{share:.0%} of the groups have signal at num_generations {size}; pooled estimate {expected:.0%}"
    if total.success_rate is not None:
        what += f" from a success rate of {total.success_rate:.0%}"
    is_rare = max(share, expected) * evidence.run.config.prompts_per_step < 1
    level: Level = "fail" if is_rare or share == 0 else "warn"
    return [Finding("few_signals", level, f"{what}.", _more_generations(total, size))]


def uneven_problems(evidence: Evidence) -> list[Finding]:
    """Rewards differ between problems far more than inside groups: more generations would not help."""
    share, expected = evidence.sampled.signal_share, evidence.total.expected_signal(evidence.num_generations)
    if not _has_few(evidence) or expected < SIGNAL_WARN:
        return []
    what = (
        f"{share:.0%} of the groups have signal, where {expected:.0%} would if all problems were alike: the policy "
        "solves a problem always or never."
    )
    remedy = "Take problems of middle difficulty (data.split), or set dynamic_sampling: true to draw past the others."
    return [Finding("uneven_problems", "fail" if share == 0 else "warn", what, remedy)]


def _has_few(evidence: Evidence) -> bool:
    """Whether few groups have signal although rewards do differ, and for some problem by the completion's text."""
    differs = differ(evidence.total.scored) and any(differ(row) for row in evidence.by_problem(None))
    return differs and evidence.sampled.signal_share < SIGNAL_WARN


def _more_generations(total: Scores, size: int) -> str:
    enough = [other for other in OTHER_SIZES if other > size and total.expected_signal(other) >= SIGNAL_WARN]
    if enough:
        share = total.expected_signal(enough[0])
        return f"Set num_generations: {enough[0]} (about {share:.0%} of the groups would have signal)."
    return "Take problems that are solved more often (data.split), or a reward that grades instead of giving 0 or 1."


def slow_reward(evidence: Evidence) -> list[Finding]:
    """A function that the machine would wait for."""
    config, sampled = evidence.run.config, evidence.sampled
    found = []
    for function in evidence.functions:
        each = min((function.seconds or 0.0) / sampled.num_completions, evidence.probe_seconds(function.name))
        step = each * config.completions_per_step
        if step < SLOW_SECONDS or step < SLOW_SHARE * sampled.rollout_s:
            continue
        what = (
            f'Reward "{function.name}" takes {each:.2g} s a completion, so about {step:.0f} s a step; sampling takes '
            f"{sampled.rollout_s:.1f} s."
        )
        remedy = (
            f"Make {function.name} an `async def`, judge the whole batch at once, or keep what it computes in a cache."
        )
        found.append(Finding("slow_reward", "warn", what, remedy))
    return found


def conflict(evidence: Evidence) -> list[Finding]:
    """Two functions that order the same completions the opposite way."""
    return [
        Finding(
            "conflict",
            "warn",
            f'Rewards "{each.first}" and "{each.second}" pull against each other: rank correlation {each.rho:.2f} '
            f"inside groups ({each.num_pairs} completions).",
            f"Gate one by the other (when: {{{each.first}: 1}} on {each.second}), or lower the weight of one of them.",
        )
        for each in evidence.agreements
        if each.is_conflict
    ]


def redundant(evidence: Evidence) -> list[Finding]:
    """Two functions whose rewards agree."""
    return [
        Finding(
            "redundant",
            "note",
            f'Rewards "{each.first}" and "{each.second}" order completions alike: rank correlation {each.rho:.2f}.',
            f"Take {each.second} out of rewards, unless it is meant to weigh more.",
        )
        for each in evidence.agreements
        if each.rho >= REDUNDANT and each.num_pairs >= FEWEST_PAIRS
    ]


OF_CAUSES: tuple[Callable[[Evidence], list[Finding]], ...] = (
    unscored,
    gate_shut,
    constant_reward,
    ignores_completion,
)
"""What makes other findings: to be mended first."""
OF_SIGNAL: tuple[Callable[[Evidence], list[Finding]], ...] = (
    same_for_all,
    no_signal,
    few_signals,
    uneven_problems,
    conflict,
    redundant,
    slow_reward,
)
