"""`groupwise reward`: scores completions of a file as a recipe would, and shows the reason for each reward."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from groupwise.chat import CompletionValue
from groupwise.config import Recipe
from groupwise.errors import DataError, near_path, quoted
from groupwise.json_values import plain_value
from groupwise.rewards import RewardScorer
from groupwise.rewards.flat_groups import group_from_completions
from groupwise.rewards.sandbox.backend_choice import RunSandboxes
from groupwise.runs.folder import RunFolder
from groupwise.tasks import recipe_rewards
from groupwise.types import REWARD_KEYWORDS, Group, ScoredGroup

_NOT_COLUMNS = {"prompt", "completion", "rewards", "reward", *REWARD_KEYWORDS}
"""Keys of a simple row that are no columns of the data set; rewards in the file are not read."""


@dataclass(frozen=True)
class Scored:
    """One completion with its rewards."""

    number: int
    """Counted from 1, in the order of the file."""
    text: str
    rewards: dict[str, float | None]
    counted: dict[str, float | None]
    """Each function's reward after its shaping, before its weight."""
    reward: float | None
    why: dict[str, str]
    extra: dict[str, Any]


def score_file(recipe: Recipe, file: Path) -> tuple[list[Scored], dict[str, float]]:
    """Every completion of the file, scored by the recipe's rewards, and the weight of each function.

    Raises:
        ConfigError, DataError, RewardError: as in training; a column that a function requires and the file lacks.
    """
    with RunSandboxes.of(recipe.config).in_force():
        own = [reward.resolved() for reward in recipe.rewards]
        scorer = RewardScorer(recipe_rewards(recipe.task, own, recipe.config.reward_weights, recipe.folder))
        scored = _score(scorer, file)
    return scored, {function.name: function.weight for function in scorer.functions}


def _score(scorer: RewardScorer, file: Path) -> list[Scored]:
    groups = list(read_groups(file))
    if not groups:
        raise DataError(f'"{file}" holds no completions. Expected one JSON object a line: {_FORM}.')
    scorer.check_rows(f'"{file}"', (group.problem for group in groups))
    scorer.load()
    scored: list[Scored] = []
    for group in scorer.score(groups).groups:
        scored += _scored(group, len(scored) + 1)
    return scored


_FORM = '{"completion": "...", "prompt": "...", "answer": ...}, or a line of the completions that a run recorded'


def read_groups(file: Path) -> Iterator[Group]:
    """The groups of a file: a line of a run folder is one, simple rows that differ in their completion alone are one.

    A run folder gives the completions of its last recorded step.
    """
    if file.is_dir():
        file = _last_recorded(file)
    waiting: list[_Row] = []
    number = 0
    for row in _rows(file):
        if waiting and not (row.is_open and row.of_one_problem(waiting[0])):
            yield _group(number, waiting)
            waiting, number = [], number + 1
        waiting.append(row)
    if waiting:
        yield _group(number, waiting)


def table(scored: Sequence[Scored], weights: Mapping[str, float], num: int) -> Iterator[str]:
    """Lines for the screen: the first `num` completions (0: all) with every function's part, then a summary."""
    shown = scored[: num or None]
    width = max(len(name) for name in weights)
    for each in shown:
        yield f"{each.number:4}  reward {_number(each.reward)}  {quoted(each.text, 160)}"
        for name, weight in weights.items():
            yield f"      {name.ljust(width)}  {_part(each, name, weight)}  {each.why.get(name, '')}".rstrip()
    if len(shown) < len(scored):
        yield f"... {len(scored) - len(shown)} more (--num 0 shows all)"
    yield from _summary(scored, weights, width)


def as_json(each: Scored) -> str:
    """One completion as one line."""
    keys = ("number", "reward", "rewards", "counted", "why", "extra")
    record = {key: getattr(each, key) for key in keys} | {"completion": each.text}
    return json.dumps(plain_value(record, {}), ensure_ascii=False)


@dataclass(frozen=True)
class _Row:
    """One line of a file."""

    prompt: Any
    completions: list[CompletionValue]
    ids: list[list[int]] | None
    columns: dict[str, Any]
    is_open: bool
    """Whether the next line may go on with its group."""
    opening: str | None = None
    """The recorded opening of the prompt; None: it is read from the prompt."""
    place: str = ""
    source: str = ""
    """The file."""

    def of_one_problem(self, other: _Row) -> bool:
        mine, theirs = (self.prompt, self.columns, self.ids is None), (other.prompt, other.columns, other.ids is None)
        return other.is_open and mine == theirs


def _rows(file: Path) -> Iterator[_Row]:
    if not file.is_file():
        raise DataError(f'There is no file "{file}" to take completions from.{near_path(file)}')
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield replace(_row(line, f'"{file}", line {number}'), place=f"line {number}", source=str(file))


def _row(line: str, where: str) -> _Row:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}). Expected {_FORM}.") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is not a JSON object. Expected {_FORM}.")
    if "schema_version" in record and "draw" in record:
        return _recorded(record)
    given = record.get("completions", [record["completion"]] if "completion" in record else None)
    if not isinstance(given, list) or not given or not all(_is_completion(each) for each in given):
        raise DataError(f"{where} has no completion that is text or a list of messages. Expected {_FORM}.")
    prompt = record.get("prompt", "" if isinstance(given[0], str) else [])
    if not isinstance(prompt, str) and not _is_chat(prompt):
        raise DataError(f"{where}: its prompt is neither text nor a list of messages.")
    ids = record.get("completion_ids")
    if ids is not None and "completion" in record:
        ids = [ids]
    if ids is not None and not _are_ids(ids, len(given)):
        raise DataError(f"{where}: its completion_ids are not one list of whole numbers for each completion.")
    columns = {name: value for name, value in record.items() if name not in _NOT_COLUMNS}
    return _Row(prompt, given, ids, columns, is_open="completion" in record)


def _recorded(record: Mapping[str, Any]) -> _Row:
    """A group as a run records it."""
    completions = record["completions"]
    texts = [completion["text"] for completion in completions]
    ids = [completion["ids"] for completion in completions]
    opening = record.get("opening")
    return _Row(record["prompt"], texts, ids, dict(record["columns"]), is_open=False, opening=opening)


def _group(number: int, rows: Iterable[_Row]) -> Group:
    rows = list(rows)
    completions = [completion for row in rows for completion in row.completions]
    ids = [each for row in rows for each in row.ids or ()] or None
    first = rows[0]
    return group_from_completions(
        number, first.prompt, completions, ids, first.columns, first.opening, first.place, first.source
    )


def _last_recorded(folder: Path) -> Path:
    run = RunFolder(folder)
    steps = run.completion_steps()
    if not steps:
        raise DataError(f'"{folder}" is a folder without recorded completions. Give a run folder or a file.')
    return run.completions_of(steps[-1])


def _scored(group: ScoredGroup, first: int) -> Iterator[Scored]:
    for index, completion in enumerate(group.completions):
        extra = {name: values[index] for name, values in group.extras.items()}
        why = {name.removesuffix("/why"): str(extra.pop(name)) for name in list(extra) if name.endswith("/why")}
        yield Scored(
            number=first + index,
            text=completion.text,
            rewards={name: values[index] for name, values in group.rewards.items()},
            counted={name: values[index] for name, values in group.shaped_rewards.items()},
            reward=group.reward[index],
            why={name: reason for name, reason in why.items() if reason != "None"},
            extra=extra,
        )


def _part(each: Scored, name: str, weight: float) -> str:
    """The value of a function, its shaped value where that differs, and its weight."""
    returned, counted = each.rewards[name], each.counted[name]
    change = "" if counted == returned else f"counts {_number(counted).strip()}"
    return f"{_number(returned)}  x {weight:<5g} {change}".ljust(32)


def _summary(scored: Sequence[Scored], weights: Mapping[str, float], width: int) -> Iterator[str]:
    yield ""
    width = max(width, len("reward"))
    yield f"{len(scored)} completions".ljust(width + 2) + "      mean       std    lowest   highest    unscored"
    columns = {name: [each.rewards[name] for each in scored] for name in weights}
    for name, values in {**columns, "reward": [each.reward for each in scored]}.items():
        known = [value for value in values if value is not None]
        figures = (fmean(known), pstdev(known), min(known), max(known)) if known else (None,) * 4
        cells = " ".join(_number(figure) for figure in figures)
        yield f"{name.ljust(width)}    {cells}  {len(values) - len(known):10}"


def _number(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.4g}':>9}"


def _is_completion(value: Any) -> bool:
    return isinstance(value, str) or _is_chat(value)


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(m, dict) and "role" in m and "content" in m for m in value)


def _are_ids(ids: Any, count: int) -> bool:
    is_list = isinstance(ids, list) and len(ids) == count
    return is_list and all(isinstance(each, list) and all(type(token) is int for token in each) for each in ids)
