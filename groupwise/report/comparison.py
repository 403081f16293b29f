"""Several runs side by side: after the same samples or the same minutes, seeds of one recipe pooled."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from groupwise.diagnose.trend import ENDS, change_of, student
from groupwise.errors import ConfigError
from groupwise.redact import without_secrets
from groupwise.report.about import flat, in_words
from groupwise.runs import RunReader
from groupwise.runs.metrics import held_out_rewards
from groupwise.runs.series import Record, series, total
from groupwise.runs.text import duration, number

By = Literal["samples", "minutes"]

NOT_COMPARED = ("seed", "output_dir", "run_name", "report_to", "overwrite_output_dir", "resume_from_checkpoint")
"""Fields of a recipe in which runs of one arm may differ: the seed, and where the run is written."""
MAX_VALUE = 120
"""Characters of a setting in the list of differences."""


@dataclass(frozen=True)
class ComparedRun:
    """One run: at every step how far it has come, and its reward."""

    name: str
    recipe: Mapping[str, Any]
    """Flat, without secrets."""
    records: Sequence[Record]
    at: tuple[float, ...]
    """Completions sampled, or minutes taken, up to each step."""

    @property
    def end(self) -> float:
        return self.at[-1]

    def until(self, place: float) -> list[Record]:
        """The records of the steps that were done by then."""
        return [record for record, at in zip(self.records, self.at, strict=True) if at <= place * (1 + 1e-9)]

    @property
    def curve(self) -> tuple[list[float], list[float]]:
        """Places, and the reward averaged over the last steps there."""
        rows = [(at, r) for at, r in zip(self.at, self.records, strict=True) if r.get("reward") is not None]
        return [at for at, _ in rows], list(series([r for _, r in rows], "reward").averaged(ENDS).values)


@dataclass(frozen=True)
class Pooled:
    """A number over the seeds of an arm."""

    mean: float
    error: float | None
    """Standard error of the mean: over seeds where there are several, else over steps or problems of the one run."""
    num: int
    spread: float | None = None
    """Standard deviation over seeds."""

    def __str__(self) -> str:
        if self.error is None:
            return number(self.mean)
        return f"{number(self.mean)} ± {number(self.spread if self.spread is not None else self.error)}"


@dataclass(frozen=True)
class Arm:
    """The runs of one recipe, which differ in their seed."""

    name: str
    runs: tuple[ComparedRun, ...]

    def reward(self, place: float) -> Pooled | None:
        """Mean of the last steps up to `place`."""
        return _pooled([_late_reward(run.until(place)) for run in self.runs])

    def held_out(self, place: float, key: str) -> Pooled | None:
        """The last evaluation up to `place`."""
        return _pooled([_last_evaluation(run.until(place), key) for run in self.runs])


@dataclass(frozen=True)
class Compared:
    """Arms up to where the shortest run ends."""

    by: By
    arms: tuple[Arm, ...]
    place: float
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    """Setting -> its value in each arm."""


def compare(runs: Sequence[RunReader], by: By = "samples") -> Compared:
    """Put runs side by side.

    Raises:
        ConfigError: fewer than two runs, or one without a finished step.
        RunError: a record is damaged.
    """
    if len(runs) < 2:
        raise ConfigError("Found one run to compare; expected two or more. Name their folders.")
    found = [_compared(run, by) for run in runs]
    arms: dict[str, list[ComparedRun]] = {}
    for run in found:
        arms.setdefault(_arm_of(run.recipe), []).append(run)
    made = tuple(Arm(_name(group), tuple(group)) for group in arms.values())
    return Compared(by, made, min(run.end for run in found), _differences(made))


def table(compared: Compared) -> list[str]:
    """The comparison as lines of text."""
    unit = "completions" if compared.by == "samples" else "minutes"
    place = f"{compared.place:,.0f}" if compared.by == "samples" else f"{compared.place:.1f}"
    keys = _held_out_keys(compared)
    head = ["run", "seeds", "steps", "time", "reward", *(f"held out, {label}" for label, _ in keys)]
    rows = [[*_row(arm, compared.place), *_evaluated(arm, compared.place, keys)] for arm in compared.arms]
    lines = [f"After the same {compared.by}: {place} {unit}, where the shortest run ends."]
    lines += ["", *_aligned([head, *rows]), "", _meaning(compared), *_verdicts(compared, keys)]
    if compared.differences:
        lines += ["", "What differs in the recipes:"]
        names = [arm.name for arm in compared.arms]
        lines += [_difference(key, names, values) for key, values in compared.differences]
    return lines


def _compared(run: RunReader, by: By) -> ComparedRun:
    records = run.metrics()
    name = run.folder.path.resolve().name
    if not records:
        raise ConfigError(f'"{run.folder.path}" has no finished step to compare. Leave it out, or wait for one.')
    recipe = without_secrets(dict(run.config.get("recipe") or {}))
    size = int(recipe.get("num_generations") or 1)
    each = [_samples(r, size) if by == "samples" else float(r.get("step_time") or 0.0) / 60 for r in records]
    return ComparedRun(name, dict(flat(recipe)), records, tuple(itertools.accumulate(each)))


def _samples(record: Record, size: int) -> float:
    """Completions of a step, those of dropped groups too."""
    return size * float((record.get("groups_used") or 0) + (record.get("groups_dropped") or 0))


def _arm_of(recipe: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in recipe.items() if key not in NOT_COMPARED}
    return json.dumps(kept, sort_keys=True, default=str)


def _name(runs: Sequence[ComparedRun]) -> str:
    """The beginning that the folders' names have in common, or the first of them."""
    names = [run.name for run in runs]
    common = "".join(a[0] for a in itertools.takewhile(lambda c: len(set(c)) == 1, zip(*names, strict=False)))
    return (common.rstrip("-_.0123456789 ") or names[0]) if len(names) > 1 else names[0]


def _differences(arms: Sequence[Arm]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    recipes = [arm.runs[0].recipe for arm in arms]
    keys = [key for key in dict.fromkeys(itertools.chain(*recipes)) if key not in NOT_COMPARED]
    rows = [(key, tuple(in_words(recipe[key]) if key in recipe else "-" for recipe in recipes)) for key in keys]
    return tuple((key, values) for key, values in rows if len(set(values)) > 1)


Value = tuple[float, float | None]
"""A mean of one run and its standard error."""


def _late_reward(records: Sequence[Record]) -> Value | None:
    values = series(records, "reward").values
    found = change_of(values)
    if found is None:
        return (values[0], None) if values else None
    late = values[-found.num_last :]
    return found.last, statistics.stdev(late) / math.sqrt(len(late)) if len(late) > 1 else None


def _last_evaluation(records: Sequence[Record], key: str) -> Value | None:
    found = [record for record in records if record.get(key) is not None]
    if not found:
        return None
    error = found[-1].get(f"{key}_stderr")
    return float(found[-1][key]), None if error is None else float(error)


def _pooled(values: Sequence[Value | None]) -> Pooled | None:
    found = [value for value in values if value is not None]
    if not found:
        return None
    means = [mean for mean, _ in found]
    if len(means) == 1:
        return Pooled(means[0], found[0][1], 1)
    spread = statistics.stdev(means)
    return Pooled(statistics.fmean(means), spread / math.sqrt(len(means)), len(means), spread)


def _row(arm: Arm, place: float) -> list[str]:
    reward = arm.reward(place)
    steps = statistics.fmean(len(run.until(place)) for run in arm.runs)
    seconds = statistics.fmean(total(run.until(place), "step_time") for run in arm.runs)
    return [arm.name, str(len(arm.runs)), f"{steps:g}", duration(seconds), "-" if reward is None else str(reward)]


def _held_out_keys(compared: Compared) -> list[tuple[str, str]]:
    return held_out_rewards(key for arm in compared.arms for run in arm.runs for r in run.records for key in r)


def _evaluated(arm: Arm, place: float, keys: Sequence[tuple[str, str]]) -> list[str]:
    found = [arm.held_out(place, key) for _, key in keys]
    return ["-" if each is None else str(each) for each in found]


def _meaning(compared: Compared) -> str:
    text = f"Reward: mean of the last {ENDS} steps (a third of them at most). ± is the standard deviation over seeds"
    return f"{text}; of a single run one standard error, over steps or over held-out problems."


def _verdicts(compared: Compared, keys: Sequence[tuple[str, str]]) -> list[str]:
    """Each arm against the first, by held-out rewards where there are some; no claim without seeds."""
    first, *others = compared.arms
    if not others:
        return ["All of these runs have one recipe: they differ in their seed."]
    if min(len(arm.runs) for arm in compared.arms) < 2:
        return ["No verdict: seeds of one recipe differ from each other too. Run two or more seeds of each recipe."]
    key = keys[0][1] if keys else None
    measured = {arm.name: arm.held_out(compared.place, key) if key else arm.reward(compared.place) for arm in others}
    base = first.held_out(compared.place, key) if key else first.reward(compared.place)
    what = f"held-out reward ({keys[0][0]})" if keys else "reward"
    return [_verdict(name, first.name, what, found, base) for name, found in measured.items() if found and base]


def _verdict(name: str, first: str, what: str, found: Pooled, base: Pooled) -> str:
    error = math.hypot(found.error or 0.0, base.error or 0.0)
    gap = found.mean - base.mean
    freedom = max(1, min(found.num, base.num) - 1)
    is_clear = abs(gap) > student(freedom) * error
    how = ("is above" if gap > 0 else "is below") if is_clear else "does not clearly differ from"
    return f"{name} {how} {first} in its {what}: {number(gap)} with a standard error of {number(error)} over seeds."


def _difference(key: str, names: Sequence[str], values: Sequence[str]) -> str:
    shown = [value if len(value) <= MAX_VALUE else f"{value[:MAX_VALUE]} …" for value in values]
    return f"  {key}: " + ", ".join(f"{value} ({name})" for name, value in zip(names, shown, strict=True))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
