"""Checks of the data, before a model is loaded."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from statistics import fmean

from groupwise.check.finding import Finding, Level
from groupwise.data.problems import Problems
from groupwise.errors import RewardError, nearest_columns
from groupwise.json_values import as_text
from groupwise.lifecycle.inputs import EVALUATION_DATA, RunInputs
from groupwise.rewards.environment_reward import EnvironmentReward
from groupwise.rewards.function import RewardFunction
from groupwise.rewards.gold_answers import (
    USUAL_NAMES,
    columns_read,
    gold_column,
    golds,
    is_announced,
    occurs,
    prompt_words,
    usual_gold_column,
)
from groupwise.types import REWARD_KEYWORDS, Problem, Prompt

LOOK_AT = 2000
"""Rows that the slower checks read: a share of them is known to 2 points, and they take under a second."""
EMPTY_FAIL = 0.5
"""Share of rows without a value in a column that a reward reads: from here on most groups are scored wrongly."""
NAMED_ROWS = 3
"""Rows that a finding names."""
DUPLICATES_WARN = 0.05
"""Share of rows whose prompt came before: below it a few repeats change no epoch that anyone would notice."""
EVAL_SEEN_FAIL = 0.05
"""Share of held-out prompts that are trained on: from here on the held-out curve measures memory as well as skill."""
LEAK_WARN, LEAK_BY_CHANCE = 0.5, 0.3
"""Share of prompts that hold their own answer, and how far that must lie above the share that hold another row's:
options of a multiple choice stand in every prompt and give nothing away."""


def too_few_problems(inputs: RunInputs) -> list[Finding]:
    """A step draws different problems, so there must be enough for one."""
    num, wanted = len(inputs.problems), inputs.config.prompts_per_step
    if num >= wanted:
        return []
    what = f"The data has {num} problems, and a step draws {wanted} different ones."
    return [Finding("too_few_problems", "fail", what, f"Set prompts_per_step: {num}, or use more data.")]


def wrong_column(inputs: RunInputs) -> list[Finding]:
    """A reward function takes a column that the data does not have."""
    found = []
    columns = inputs.problems.column_names
    for function in inputs.rewards:
        lacking = _lacking(function, columns, "data set")
        if not lacking and inputs.eval_problems is not None:
            lacking = _lacking(function, inputs.eval_problems.column_names, EVALUATION_DATA)
        if lacking:
            found += lacking
            continue
        found += [
            Finding(
                "wrong_column",
                "warn",
                f'Reward "{function.name}" has a parameter "{name}" that no column of the data fills '
                f"({_listed(columns)}), so it is always None.",
                _rename([name], columns),
            )
            for name in _never_filled(function, columns)
        ]
    return found


def _lacking(function: RewardFunction, columns: Sequence[str], data: str) -> list[Finding]:
    """The finding where these columns cannot call the function."""
    try:
        function.check(columns, data)
    except RewardError as error:
        remedy = _own_column(function, columns) or _rename(function.missing(columns), columns)
        return [Finding("wrong_column", "fail", str(error), remedy)]
    return []


def _never_filled(function: RewardFunction, columns: Sequence[str]) -> list[str]:
    """Parameters that default to None, which looks like a column, and have none."""
    if isinstance(function.call, EnvironmentReward):  # the column is there where there are several environments
        return []
    parameters = inspect.signature(function.call).parameters
    known = {*columns, *REWARD_KEYWORDS}
    return sorted(name for name in function.accepted - known if parameters[name].default is None)


def _own_column(function: RewardFunction, columns: Sequence[str]) -> str | None:
    """The remedy for a shipped reward, which reads whatever column its own setting names; None for another one."""
    column = getattr(function.call, "column", None)
    if not isinstance(column, str) or column in columns:
        return None
    return f"Set column: {_nearest(column, columns)} of the reward {function.name}."


def _rename(missing: Sequence[str], columns: Sequence[str]) -> str:
    wanted = missing[0] if missing else "NEW_NAME"
    return (
        f"Set data.columns: {{{wanted}: {_nearest(wanted, columns)}}}, or let the reward read a column that is there."
    )


def _nearest(wanted: str, columns: Sequence[str]) -> str:
    """The column that was meant: one of a like name, else one that is usual for right answers."""
    return (
        nearest_columns(wanted, columns) or [name for name in USUAL_NAMES if name in columns] or ["COLUMN_OF_THE_DATA"]
    )[0]


def _listed(names: Sequence[str]) -> str:
    return f"it has {', '.join(names)}" if names else "it has none but the prompt"


def empty_column(inputs: RunInputs) -> list[Finding]:
    """A column that a reward reads and that has nothing in some rows: a function may fail at one."""
    names = {name for function in inputs.rewards for name in columns_read(function)}
    gold = gold_column(inputs.problems.column_names, inputs.rewards)
    wanted = sorted((names | ({gold} if gold else set())) & set(inputs.problems.column_names))
    sets = [inputs.problems, *inputs.held_out.values()]
    pairs = ((name, rows) for name in wanted for rows in sets if name in rows.column_names)
    return [finding for name, rows in pairs for finding in _empty_in(name, rows)]


def _empty_in(name: str, problems: Problems) -> list[Finding]:
    """The finding about the rows of one data set that have nothing in this column."""
    empty = [problem.place for problem in problems if _is_empty(problem.columns.get(name))]
    if not empty:
        return []
    share, num = len(empty) / len(problems), f"{len(empty)} of {len(problems)} rows"
    places = ", ".join(empty[:NAMED_ROWS]) + (", ..." if len(empty) > NAMED_ROWS else "")
    what = f'Column "{name}", which the rewards read, is empty in {num} of {problems.name}: {places}.'
    if share >= EMPTY_FAIL:
        others = ", ".join(column for column in problems.column_names if column != name) or "there is no other"
        remedy = f"Set data.columns: {{{name}: COLUMN}} to the column that holds it ({others})."
        return [Finding("empty_column", "fail", what, remedy)]
    remedy = f"Fill it in, or leave {'these rows' if len(empty) > 1 else 'this row'} out."
    return [Finding("empty_column", "warn", what, remedy)]


def _is_empty(value: object) -> bool:
    return not value.strip() if isinstance(value, str) else value is None or value == []


def duplicate_problems(inputs: RunInputs) -> list[Finding]:
    """Prompts that the data holds more than once; what an environment makes of one prompt differs by its seed."""
    if inputs.environment is not None:
        return []
    counts = Counter(_key(problem.prompt) for problem in inputs.problems)
    repeated = len(inputs.problems) - len(counts)
    if not repeated:
        return []
    share, most = repeated / len(inputs.problems), max(counts.values())
    what = (
        f"{repeated} of {len(inputs.problems)} problems ({share:.1%}) have a prompt that another row has too; "
        f"one comes {most} times in an epoch."
    )
    level: Level = "warn" if share >= DUPLICATES_WARN else "note"
    return [Finding("duplicate_problems", level, what, f"Leave the repeats out of {inputs.problems.name}.")]


def contradicting_answers(inputs: RunInputs) -> list[Finding]:
    """One prompt with several right answers: no completion can be right in all of its rows."""
    column = gold_column(inputs.problems.column_names, inputs.rewards)
    if column is None:
        return []
    answers = defaultdict(set)
    for problem, gold in golds(inputs.problems, column):
        answers[_key(problem.prompt)].add(gold)
    several = sum(len(found) > 1 for found in answers.values())
    if not several:
        return []
    what = f'{several} prompts stand in several rows with different values of "{column}".'
    remedy = (
        f"Keep one row of each such prompt in {inputs.problems.name}, or put what distinguishes them into the prompt."
    )
    return [Finding("contradicting_answers", "warn", what, remedy)]


def eval_in_train(inputs: RunInputs) -> list[Finding]:
    """Held-out problems that are trained on."""
    if inputs.eval_problems is None:
        return []
    trained = {_key(problem.prompt) for problem in inputs.problems}
    seen = sum(_key(problem.prompt) in trained for problem in inputs.eval_problems)
    if not seen:
        return []
    share = seen / len(inputs.eval_problems)
    what = f"{seen} of {len(inputs.eval_problems)} held-out prompts ({share:.0%}) stand in the training data too."
    level: Level = "fail" if share >= EVAL_SEEN_FAIL else "warn"
    remedy = "Set data.split and data.eval_split to rows that do not overlap, such as [:90%] and [90%:]."
    return [Finding("eval_in_train", level, what, remedy)]


def _key(prompt: Prompt) -> str:
    """A prompt without what no one means by different: case and white space."""
    return " ".join((prompt if isinstance(prompt, str) else as_text(prompt)).casefold().split())


def answer_in_prompt(inputs: RunInputs) -> list[Finding]:
    """Prompts that hold the answer they ask for."""
    column = gold_column(inputs.problems.column_names, inputs.rewards)
    if column is None:
        return []
    rows = [(prompt_words(problem.prompt), gold) for problem, gold in golds(_first_rows(inputs.problems), column)]
    if len(rows) < 2:
        return []
    own = _share(occurs(gold, prompt) for prompt, gold in rows)
    chance = _by_chance(rows, own)
    if own < LEAK_WARN or own - chance < LEAK_BY_CHANCE:
        return []
    announced = _share(is_announced(gold, prompt) for prompt, gold in rows)
    what = (
        f'{own:.0%} of the prompts hold their own answer (column "{column}"), {chance:.0%} the answer of another row.'
    )
    if announced:
        what += f" {announced:.0%} even announce it as the answer."
    remedy = "Set data.columns: {prompt: COLUMN} to the column with the question alone, or take the answer out of the "
    remedy += "prompts"
    if announced >= LEAK_WARN:
        return [Finding("answer_in_prompt", "fail", what, f"{remedy}.")]
    if usual_gold_column(inputs.problems.column_names, inputs.rewards) is None:
        return []  # what a function reads may stand in a prompt on purpose: a keyword, a limit
    remedy += "; where the task is to find it in a text, nothing is wrong."
    return [Finding("answer_in_prompt", "warn", what, remedy)]


def _by_chance(rows: Sequence[tuple[str, str]], own: float) -> float:
    """Share of prompts that hold the answer of the next row with another one; `own` where all answers are equal."""
    found = []
    for i, (prompt, gold) in enumerate(rows):
        others = (rows[(i + k) % len(rows)][1] for k in range(1, min(len(rows), 20)))
        other = next((each for each in others if each != gold), None)
        if other is not None:
            found.append(occurs(other, prompt))
    return _share(found) if found else own


def _share(found: Iterable[bool]) -> float:
    return fmean(map(float, found))


def _first_rows(problems: Problems) -> list[Problem]:
    return list(islice(problems, LOOK_AT))


CHECKS: tuple[Callable[[RunInputs], list[Finding]], ...] = (
    wrong_column,
    too_few_problems,
    empty_column,
    answer_in_prompt,
    eval_in_train,
    contradicting_answers,
    duplicate_problems,
)
