"""Probes: worthless completions and the right answer, scored on the sampled problems."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from statistics import fmean
from typing import Any

from groupwise.check.sample import Sampled
from groupwise.data.order import Draw
from groupwise.lifecycle.build import RunParts
from groupwise.rewards.function import RewardFunction
from groupwise.rewards.gold_answers import gold_text, golds, possible_gold_columns, prompt_words, usual_gold_column
from groupwise.rewards.opened import tags_of
from groupwise.rollout.scripted import ScriptedEngine
from groupwise.train.collect import score_as_the_program
from groupwise.train.episodes import EpisodeSampler
from groupwise.train.sampler import PROBE
from groupwise.types import Completion, Group, Problem, Request, ScoredGroup

EMPTY = "empty"
PROMPT = "the prompt repeated"
TAGS = "tags around nothing"
STUFFED = "tags stuffed with guesses"
NOISE = "noise of full length"
GOLD = "gold answer alone"
AFTER_WORDS = "gold answer after other words"
VALUE = "value of a column alone"
BEGINNING = "beginning of an answer"
_OTHER = "value of another row"

EXPLOITS = (EMPTY, PROMPT, TAGS, STUFFED, NOISE)
GUESSES = " ".join([*map(str, range(21)), *"ABCDE", "yes", "no", "true", "false"])
GOLD_FORMS = ("{}", "The answer is {}.", "#### {}", "\\boxed{{{}}}")
"""Beside the tags that the rewards name."""
AFTER_FORMS = ("{}", "The answer is {}.")
CONFIRMED = 0.5
"""Share of problems in which a column's own value has to earn more than another row's to pass for the right answer."""
PREFIXES = (16, 8, 4, 2)
"""An answer is cut to one part in so many: where short is good, one of these beats nothing at all."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A completion that was made up."""

    kind: str
    text: str
    is_cut: bool = False
    """Whether it ends at the length limit instead of an end token."""
    column: str | None = None
    """The column that it is made of."""


@dataclass(frozen=True)
class Probed:
    """The rewards of the probes of one problem, beside those of its sampled completions."""

    group: ScoredGroup
    """The probes as scored completions."""
    kinds: tuple[str, ...]
    sampled: tuple[float, ...]
    """Scored rewards of the sampled completions, counted in the same way."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Reward function -> seconds of its call on the probes of all problems."""
    num_scored: int = 0
    """Probes of the problem that this call scored, those that are left out here too."""
    column: str | None = None
    """The column of the right answers, or the one whose values were tried as such."""

    def best(self, *kinds: str) -> float | None:
        """The highest reward of these kinds of probe; None where all are unscored."""
        scored = zip(self.kinds, self.group.reward, strict=True)
        return max((reward for kind, reward in scored if kind in kinds and reward is not None), default=None)

    def index_of_best(self, kind: str) -> int:
        """The probe of this kind with the highest reward; one that is unscored comes last."""
        rewards = self.group.reward
        own = [i for i, each in enumerate(self.kinds) if each == kind]
        return max(own, key=lambda i: -math.inf if (reward := rewards[i]) is None else reward)


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """What one kind of probe gets, over the problems: the mean of its best."""

    kind: str
    example: str
    rewards: dict[str, float | None]
    total: float | None


def probe(run: RunParts, sampled: Sampled, trainer_state: Any = None) -> list[Probed]:
    """Make up the probes of every sampled problem and have them scored, all in one call."""
    columns = _Columns.of(run)
    relative = any(f.shaping.normalise in ("group", "batch") for f in run.training_scorer.functions)
    probes = [list(_probes(run, group, columns)) for group in sampled.groups]
    groups = []
    for group, made in zip(sampled.groups, probes, strict=True):
        completions = _completions(run, group, made)
        # rewards that are relative to their group or batch can be compared only where they were scored together
        company = group.completions if relative else ()
        made_up = (*completions, *company)
        groups.append(Group(group.draw, group.problem, group.prompt_ids, made_up, opening=group.opening))
    scored = score_as_the_program(run.training_scorer, groups, trainer_state)
    column, kind = columns.settle(list(zip(scored.groups, probes, strict=True)))
    return [
        _probed(after, before, made, scored.seconds, column, kind)
        for after, before, made in zip(scored.groups, sampled.groups, probes, strict=True)
    ]


def _probed(
    scored: ScoredGroup,
    before: ScoredGroup,
    made: Sequence[Probe],
    seconds: Mapping[str, float],
    column: str | None,
    kind: str,
) -> Probed:
    """The probes, of those that are made of a column only the values of this one; `kind` is what its values are."""
    kept = [i for i, each in enumerate(made) if each.column in (None, column) and each.kind != _OTHER]
    company = scored.reward[len(made) :] or before.reward
    alone = replace(
        scored,
        completions=tuple(scored.completions[i] for i in kept),
        rewards={name: tuple(values[i] for i in kept) for name, values in scored.rewards.items()},
        shaped={name: tuple(values[i] for i in kept) for name, values in scored.shaped.items()},
        reward=tuple(scored.reward[i] for i in kept),
    )
    kinds = tuple(kind if made[i].kind == GOLD else made[i].kind for i in kept)
    return Probed(alone, kinds, tuple(r for r in company if r is not None), seconds, len(made), column)


@dataclass(frozen=True)
class _Columns:
    """Columns whose values are tried as right answers. Rewards find out which holds them where no name does."""

    usual: str | None
    possible: Sequence[str]
    values: Mapping[str, Sequence[str]]
    """Different values of each possible column, two at most."""

    @classmethod
    def of(cls, run: RunParts) -> _Columns:
        problems, functions = run.inputs.problems, run.inputs.rewards
        usual = usual_gold_column(problems.column_names, functions)
        possible = possible_gold_columns(problems.column_names, functions)
        values = {name: _two_different(text for _, text in golds(problems, name)) for name in possible}
        return cls(usual, [name for name in possible if values[name]], values)

    def of_problem(self, problem: Problem) -> Iterator[tuple[str, str, str | None]]:
        """Column, the problem's value, and a value of another row where the column has to be found out."""
        for name in ([] if self.usual is None else [self.usual]) + [*self.possible]:
            own = gold_text(problem.columns.get(name))
            if own is not None:
                yield name, own, next((each for each in self.values.get(name, ()) if each != own), None)

    def settle(self, tried: Sequence[tuple[ScoredGroup, Sequence[Probe]]]) -> tuple[str | None, str]:
        """The column that holds the right answers, and GOLD; VALUE where only its place is evidence."""
        for name in self.possible:
            wins = [own > other for own, other in _own_against_other(tried, name)]
            if wins and fmean(wins) >= CONFIRMED:
                return name, GOLD
        if self.usual is not None or not self.possible:
            return self.usual, GOLD
        return self.possible[0], VALUE


def _two_different(texts: Iterable[str]) -> list[str]:
    found: dict[str, None] = {}
    for text in texts:
        found[text] = None
        if len(found) == 2:
            break
    return [*found]


def _own_against_other(
    tried: Sequence[tuple[ScoredGroup, Sequence[Probe]]], column: str
) -> Iterator[tuple[float, float]]:
    """For each problem the best reward of the column's own value, and of another row's."""
    for group, made in tried:
        scored = [(p.kind, r) for p, r in zip(made, group.reward, strict=False) if p.column == column and r is not None]
        own = max((reward for kind, reward in scored if kind == GOLD), default=None)
        other = max((reward for kind, reward in scored if kind == _OTHER), default=None)
        if own is not None and other is not None:
            yield own, other


def _probes(run: RunParts, group: Group, columns: _Columns) -> Iterator[Probe]:
    functions = run.inputs.rewards
    tags = _tags(functions)
    yield Probe(EMPTY, "")
    yield Probe(PROMPT, prompt_words(group.problem.prompt))
    yield Probe(TAGS, "".join(f"<{tag}></{tag}>" for tag in tags))
    yield Probe(STUFFED, "".join(f"<{tag}>{GUESSES}</{tag}>" for tag in tags))
    yield Probe(NOISE, _noise(run, group.draw), is_cut=True)
    text = next((c.text for c in group.completions if c.text.strip()), "")
    beginnings = [beginning for part in PREFIXES if (beginning := text[: len(text) // part].strip())]
    for column, own, other in columns.of_problem(group.problem):
        yield from (Probe(GOLD, form, column=column) for form in _forms(own, tags))
        if other is not None:
            yield from (Probe(_OTHER, form, column=column) for form in _forms(other, tags))
        for words in beginnings[:1]:
            after = [form.format(own) for form in AFTER_FORMS] + [_in_tags(own, tags[-1:])]
            yield from (Probe(AFTER_WORDS, f"{words}\n{form}", column=column) for form in after)
    yield from (Probe(BEGINNING, beginning) for beginning in beginnings)


def _forms(answer: str, tags: Sequence[str]) -> list[str]:
    """The usual forms of an answer."""
    return [*(form.format(answer) for form in GOLD_FORMS), _in_tags(answer, tags[-1:]), _in_tags(answer, tags)]


def _in_tags(answer: str, tags: Sequence[str]) -> str:
    return "".join(f"<{tag}>{answer}</{tag}>" for tag in tags)


def _tags(functions: Sequence[RewardFunction]) -> list[str]:
    """The tags that the rewards ask for, the answer's last; `answer` where none does."""
    tags = list(dict.fromkeys(tag for function in functions for tag in tags_of(function.call))) or ["answer"]
    return sorted(tags, key=lambda tag: tag == "answer")


def _noise(run: RunParts, draw: int) -> str:
    """Tokens drawn at random, as many as a completion may have."""
    tokenizer = run.policy.tokenizer
    special = set(tokenizer.all_special_ids)
    ids = [i for i in range(len(tokenizer)) if i not in special]
    random = Random(f"noise/{draw}")
    return run.sampler.decode(random.choices(ids, k=run.config.max_completion_length))


def _completions(run: RunParts, group: Group, made: Sequence[Probe]) -> tuple[Completion, ...]:
    """The probes of a group as if they had been sampled; an environment gets the same reply in every turn."""
    completions = tuple(_completion(run, each) for each in made)
    if not isinstance(run.sampler, EpisodeSampler):
        return completions

    def ids(request: Request, index: int) -> Sequence[int]:
        later_turn = request.seed[3:]  # of one completion; the request of a first turn is the whole group's
        return completions[later_turn[0] if later_turn else index].token_ids

    player = replace(run.sampler, engine=ScriptedEngine(ids))
    draw = Draw(group.draw, run.problems.indices.index(group.problem.index))
    return player.sample([draw], len(completions), PROBE)[0].completions


def _completion(run: RunParts, made: Probe) -> Completion:
    """The probe as if it had been sampled: cut at `max_completion_length`, else with an end token."""
    tokenizer, limit = run.policy.tokenizer, run.config.max_completion_length
    ids = tokenizer.encode(made.text, add_special_tokens=False)
    is_cut = made.is_cut or len(ids) >= limit
    ids = ids[:limit] if is_cut else [*ids, *run.policy.stop_ids[:1]]
    text = run.sampler.decode(ids) if is_cut else made.text
    return Completion(tuple(ids), (0.0,) * len(ids), "length" if is_cut else "stop", 0, text)


def probe_rows(probed: Sequence[Probed]) -> list[ProbeRow]:
    """One row a kind, in the order in which they were made."""
    kinds = dict.fromkeys(kind for each in probed for kind in each.kinds)
    return [_row(kind, [each for each in probed if kind in each.kinds]) for kind in kinds]


def _row(kind: str, probed: Sequence[Probed]) -> ProbeRow:
    chosen = [(each.group, each.index_of_best(kind)) for each in probed]
    rewards = {name: _mean(group.rewards[name][i] for group, i in chosen) for name in probed[0].group.rewards}
    first, index = chosen[0]
    return ProbeRow(kind, first.completions[index].text, rewards, _mean(group.reward[i] for group, i in chosen))


def _mean(values: Iterable[float | None]) -> float | None:
    scored = [value for value in values if value is not None]
    return fmean(scored) if scored else None
