"""Texts of the pre-flight check, the same on the screen and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from groupwise.check.cost import Cost
from groupwise.check.evidence import Evidence
from groupwise.check.prompts import Lengths, ShownPrompt
from groupwise.check.reward_stats import OTHER_SIZES, Scores, histogram
from groupwise.diagnose.correlation import Agreement
from groupwise.runs.progress import prompt_text
from groupwise.runs.text import clean, duration, number, percent
from groupwise.train.step_metrics import turns

REWARD_COLUMNS = ("reward", "mean", "lowest", "median", "highest", "spread", "None", "signal", "ms each")
SPREAD = 5
"""Place of the histogram among them."""
GIB = 2**30
SHOWN = 160
"""Characters of what an environment begins with; its end, where that is longer."""


def prompt_line(prompt: ShownPrompt) -> str:
    cut = ", cut at its beginning" if prompt.is_truncated else ""
    return f"{prompt.which}: {prompt.place}, {prompt.num_tokens} tokens{cut}"


def lengths_line(lengths: Lengths) -> str:
    return f"{lengths.shortest} to {lengths.longest} tokens, median {lengths.median:g}. As the model will see them:"


def sampled_line(evidence: Evidence) -> str:
    completions = [c for group in evidence.sampled.groups for c in group.completions]
    mean = fmean(c.num_sampled for c in completions)
    cut = percent(fmean(c.is_truncated for c in completions))
    groups = len(evidence.sampled.groups)
    return f"{groups} groups x {evidence.num_generations} completions, {mean:.0f} tokens in the mean, {cut} cut off"


def turn_rows(evidence: Evidence) -> list[tuple[str, str]]:
    """What happened between the turns; empty where no environment answered."""
    measured = turns([c for group in evidence.sampled.groups for c in group.completions])
    if not measured:
        return []
    mean, most = measured["environment/turns/mean"], measured["environment/turns/max"]
    out_of_turns, failed = measured["completions/out_of_turns"], measured["environment/failed"]
    prompt = prompt_text(evidence.sampled.groups[0].problem.prompt)
    rows = [
        ("begins with", clean(prompt) if len(prompt) <= SHOWN else f"... {clean(prompt[-SHOWN:])}"),
        ("turns", f"{number(mean)} in the mean, {most:.0f} at most; {percent(out_of_turns)} cut off after max_turns"),
        (
            "environment",
            f"an answer takes {number(1000 * measured['environment/seconds'])} ms and gives "
            f"{number(measured['completions/given_tokens'])} tokens a completion; {percent(failed)} failed",
        ),
    ]
    if "tools/call_frequency" in measured:
        calls, wrong = measured["tools/call_frequency"], measured["tools/failure_frequency"]
        rows.insert(2, ("calls", f"{number(calls)} a completion, {percent(wrong)} of them failed"))
    return rows


def reward_rows(evidence: Evidence) -> list[tuple[str, list[str], list[int]]]:
    """Name, cells but the histogram, and the histogram; the sum last where there are several functions."""
    several = len(evidence.functions) > 1
    rows = [*evidence.functions, *([evidence.total] if several else [])]
    return [
        (scores.name, _cells(scores, evidence), histogram(scores.scored) if scores.scored else []) for scores in rows
    ]


def _cells(scores: Scores, evidence: Evidence) -> list[str]:
    five = scores.five or (None,) * 5
    share = scores.signal_share if scores.seconds is not None else evidence.sampled.signal_share
    each = None if scores.seconds is None else 1000 * scores.seconds / evidence.sampled.num_completions
    return [
        number(scores.mean),
        number(five[0]),
        number(five[2]),
        number(five[4]),
        percent(scores.unscored),
        percent(share),
        "" if each is None else number(each, 2),
    ]


def signal_cells(evidence: Evidence) -> list[tuple[str, str]]:
    """Group size and expected share of groups with signal, for the usual sizes and the recipe's own."""
    sizes = sorted({*OTHER_SIZES, evidence.num_generations})
    return [(str(size), percent(evidence.total.expected_signal(size))) for size in sizes]


def signal_line(evidence: Evidence) -> str:
    measured = percent(evidence.sampled.signal_share)
    rate = evidence.total.success_rate
    pooled = "the pooled rewards" if rate is None else f"a success rate of {percent(rate)}"
    return (
        f"Measured at num_generations {evidence.num_generations}: {measured} of the groups. By num_generations, "
        f"estimated from {pooled}, at most:"
    )


def agreement_lines(agreements: Sequence[Agreement]) -> list[str]:
    return [
        f"{each.first} and {each.second}: rank correlation {each.rho:.2f} ± {each.error:.2f} inside groups"
        for each in agreements
    ]


def cost_rows(cost: Cost) -> list[tuple[str, str]]:
    parts = f"sampling {cost.rollout_s:.1f} s, rewards {cost.reward_s:.1f} s, learner {cost.learn_s:.1f} s"
    evals = f", {cost.num_evals} evaluations of {cost.eval_s:.0f} s" if cost.num_evals else ""
    rows = [
        ("a step", f"about {cost.step_s:.1f} s: {parts}"),
        ("the run", f"about {duration(cost.total_s)}: {cost.num_steps} steps{evals}"),
    ]
    if cost.memory_bytes is not None:
        total = f" of {cost.memory_total_bytes / GIB:.1f}" if cost.memory_total_bytes else ""
        rows.append(("memory", f"{cost.memory_bytes / GIB:.2f}{total} GiB used so far, optimizer state included"))
    if cost.num_token_records:
        size = cost.token_record_bytes
        in_run = f"{cost.num_token_records * size / 1e6:,.1f} MB in the run (log_token_stats_steps)"
        rows.append(("token records", f"about {size / 1e3:,.1f} kB a step, {in_run}"))
    if cost.mismatch is not None:
        rows.append(("engine", agreement_line(cost.mismatch, cost.mismatch_limit)))
    return rows


def run_line(cost: Cost) -> str:
    """How long the whole run takes and what it uses, in one line."""
    steps = f"{cost.num_steps} step{'s' if cost.num_steps != 1 else ''}"
    parts = [f"{duration(cost.total_s)} for {steps}", f"{number(cost.num_tokens)} tokens sampled"]
    if cost.memory_bytes is not None:
        parts.append(f"{cost.memory_bytes / GIB:.1f} GiB of memory")
    parts.append(f"{max(cost.disk_bytes / GIB, 0.01):.2f} GiB of disk")
    return f"The whole run: about {', '.join(parts)}."


def agreement_line(mismatch: float, limit: float | None) -> str:
    """Whether engine and learner give the sampled tokens the same log-probs, by the guards of the run."""
    measured = f"mean exp|difference| {mismatch:.4f}"
    if limit is None:
        return f"log-probs against the learner's: {measured} (no limit, as the guards are off)"
    verdict = "agree with" if mismatch <= limit else "disagree with"
    return f"log-probs {verdict} the learner's: {measured} (limit {limit:g})"


def visible(text: str) -> str:
    """Text that no terminal and no browser misreads: control and invisible characters by their codes."""
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)
