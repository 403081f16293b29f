"""Checks of the rewards, from the sampled completions and the probes."""

from __future__ import annotations

from collections.abc import Callable

from groupwise.check.evidence import Evidence
from groupwise.check.finding import Finding, Level
from groupwise.check.reward_stats import OTHER_SIZES, Scores
from groupwise.diagnose.correlation import FEWEST_PAIRS
from groupwise.rewards.shaping_rules import Shaping
from groupwise.rounding import differ

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
        level: Level = "fail" if len(evidence.functions) == 1 else "warn"
        what = (
            f'Reward "{function.name}" is {values.pop():g} for everything: for {evidence.sampled.num_completions} '
            "sampled completions and for every made-up one, the empty one included."
        )
        remedy = f"Mend {function.name} until right and wrong get different rewards, or take it out of rewards."
        found.append(Finding("constant_reward", level, what, remedy))
    return found


def ignores_completion(evidence: Evidence) -> list[Finding]:
    """A function whose reward depends on the problem alone, not on the completion."""
    found = []
    for function in evidence.functions:
        rows = [set(row) for row in evidence.by_problem(function.name) if row]
        if not rows or any(len(row) > 1 for row in rows) or len(set.union(*rows)) == 1:
            continue
        level: Level = "fail" if len(evidence.functions) == 1 else "warn"
        what = (
            f'Reward "{function.name}" differs between problems and is the same for every completion of one: it reads '
            "the prompt or a column, not the completion, and its advantages are 0."
        )
        found.append(Finding("ignores_completion", level, what, f"Let {function.name} read completions."))
    return found


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
    if evidence.num_generations < USUAL_GENERATIONS:
        remedy = f"Set num_generations: {USUAL_GENERATIONS}, which find what {evidence.num_generations} miss. {remedy}"
    return [Finding("no_signal", "fail", what, remedy)]


def few_signals(evidence: Evidence) -> list[Finding]:
    """G is too small for how rarely rewards differ. It fails where a step would often have no group with signal."""
    total, size = evidence.total, evidence.num_generations
    share, expected = evidence.sampled.signal_share, total.expected_signal(size)
    if not _has_few(evidence) or expected >= SIGNAL_WARN:
        return []
    what = f"{share:.0%} of the groups carry signal at num_generations {size}; pooled estimate {expected:.0%}"
    if total.success_rate is not None:
        what += f" from a success rate of {total.success_rate:.0%}"
    level: Level = "fail" if max(share, expected) * evidence.run.config.prompts_per_step < 1 else "warn"
    return [Finding("few_signals", level, f"{what}.", _more_generations(total, size))]


def uneven_problems(evidence: Evidence) -> list[Finding]:
    """Rewards differ between problems far more than inside groups: more generations would not help."""
    share, expected = evidence.sampled.signal_share, evidence.total.expected_signal(evidence.num_generations)
    if not _has_few(evidence) or expected < SIGNAL_WARN:
        return []
    what = (
        f"{share:.0%} of the groups carry signal, where {expected:.0%} would if all problems were alike: the policy "
        "solves a problem always or never."
    )
    remedy = "Take problems of middle difficulty (data.split), or set dynamic_sampling: true to draw past the others."
    return [Finding("uneven_problems", "warn", what, remedy)]


def _has_few(evidence: Evidence) -> bool:
    """Whether few groups have signal although rewards do differ, and for some problem by the completion's text."""
    differs = differ(evidence.total.scored) and any(differ(row) for row in evidence.by_problem(None))
    return differs and evidence.sampled.signal_share < SIGNAL_WARN


def _more_generations(total: Scores, size: int) -> str:
    enough = [other for other in OTHER_SIZES if other > size and total.expected_signal(other) >= SIGNAL_WARN]
    if enough:
        share = total.expected_signal(enough[0])
        return f"Set num_generations: {enough[0]} (about {share:.0%} of the groups would carry signal)."
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
    no_signal,
    few_signals,
    uneven_problems,
    conflict,
    redundant,
    slow_reward,
)
