"""Signs of a reward that is hacked: one answer for every prompt, repeated phrases, answers that say nothing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

from groupwise.diagnose.diagnosis import Diagnosis, examples_of
from groupwise.diagnose.run_view import Groups, Place, RunView, places
from groupwise.runs.progress import prompt_text
from groupwise.runs.records import CompletionRecord, GroupRecord
from groupwise.runs.text import clean, number

ONE_ANSWER = 0.8
"""Share of the completions of different prompts that give the same answer."""
BEYOND_DATA = 0.15
"""How much more often than in the data itself: a policy that answers as often as the data do has not collapsed."""
FEWEST_PROMPTS = 5
ANSWER_COLUMNS = ("answer", "label", "category", "class", "solution", "target", "gold", "ground_truth", "reference")
"""Columns that hold the right answer by custom, the likeliest first; the recipe's rewards may name another one."""
MOST_CHARACTERS = 200
"""A column with longer values holds no answer that could be counted."""
HACKED, RISEN = 0.3, 0.2
"""Share of the late completions that look alike in a worthless way, and by how much it is above that of the first."""
FEWEST_TOKENS = 16
DISTINCT = 0.4
"""Distinct sequences of three tokens among all of a completion, at or below which it repeats itself: a phrase that
is said three times leaves a third."""
GUESSES = 8
"""Words inside one pair of tags that are numbers, letters, yes or no: an answer is one, a list of guesses is many."""
PROMPT_SHARE = 0.8
"""Share of a completion that is its own prompt."""
FEWEST_CHARACTERS = 16

Test = Callable[[GroupRecord, CompletionRecord], bool]

_TAGGED = re.compile(r"<(\w+)>(.*?)</\1>", re.DOTALL)
_GUESS = re.compile(r"-?\d+|[A-E]|yes|no|true|false", re.IGNORECASE)


def one_answer(view: RunView) -> Diagnosis | None:
    """Nearly every completion of different prompts gives the same answer."""
    late = [(place, _answer(c)) for place, c in places(_of_one_turn(view.late))]
    prompts = {place[1]["problem"] for place, _ in late}
    if len(prompts) < FEWEST_PROMPTS:
        return None
    answer, count = Counter(text for _, text in late).most_common(1)[0]
    found, in_data = count / len(late), _share_in_data(view)
    if found < ONE_ANSWER or (in_data is not None and found - in_data < BEYOND_DATA):
        return None
    early = [_answer(c) for _, c in places(_of_one_turn(view.early))]
    data = (
        "The data have no column of answers to compare with."
        if in_data is None
        else f"In the data the commonest answer is right for {in_data:.0%} of the problems that were read."
    )
    shown = [place for place, text in late if text == answer]
    return Diagnosis(
        "one_answer",
        f'The policy gives one answer whatever the prompt: "{_quoted(answer)}" in {found:.0%} of the completions.',
        _since(view, lambda group, completion: _answer(completion) == answer, ONE_ANSWER),
        view.last_step,
        (
            f"At the end {len({text for _, text in late})} different answers to {len(prompts)} different prompts "
            f"({len(late)} completions); in the first steps {len(set(early))} in {len(early)} completions.",
            data,
            *_reward_moved(view),
        ),
        examples_of(shown),
        (
            "The reward pays this answer often enough, so that no group differs any more.",
            "The learning rate is too high: the policy collapsed before it told the prompts apart.",
            "The prompt does not reach the model (cut off, a wrong column).",
        ),
        "Go on from a checkpoint before it with a lower learning_rate and a larger beta; balance the answers in the "
        "data, and pay rare ones no less than common ones.",
        "certain" if in_data is not None else "likely",
    )


def repeated_phrase(view: RunView) -> Diagnosis | None:
    """Completions say the same over and over, ever more of them, and are paid no less than the others."""
    return _hacked(
        view,
        "repeated_phrase",
        lambda group, completion: _repeats_itself(completion["ids"]),
        "repeat a phrase over and over",
        "Let the reward read the answer alone, pay less for long completions, or set repetition_penalty: 1.1.",
    )


def exploit_learnt(view: RunView) -> Diagnosis | None:
    """Completions are of a kind that `groupwise check` tries on the rewards: they say nothing and are paid."""
    found = [
        diagnosis
        for kind, test in EXPLOITS.items()
        if (diagnosis := _hacked(view, "exploit_learnt", test, f"are {kind}", _MEND)) is not None
    ]
    return found[0] if found else None


_MEND = (
    "Add a reward that reads the content and gate this one by it (when: {CONTENT: 1}); `groupwise check` tries such "
    "completions before a run."
)


def _hacked(view: RunView, name: str, test: Test, what: str, first_change: str) -> Diagnosis | None:
    early, late = (_tested(groups, test) for groups in (view.early, view.late))
    if not early or not late:
        return None
    before, now = (fmean(is_one for _, _, is_one in found) for found in (early, late))
    paid = _mean_reward(c for _, c, is_one in late if is_one)
    others = _mean_reward(c for _, c, is_one in late if not is_one)
    if now < HACKED or now - before < RISEN or paid is None or (others is not None and paid < others):
        return None
    shown = [place for place, _, is_one in late if is_one]
    beside = "" if others is None else f", the others {number(others)}"
    return Diagnosis(
        name,
        f"{now:.0%} of the completions {what}, and the reward pays for it.",
        _since(view, test, HACKED),
        view.last_step,
        (
            f"{before:.0%} of the first completions that were read, {now:.0%} of the last.",
            f"At the end these get {number(paid)} in the mean{beside}.",
            *_reward_moved(view),
        ),
        examples_of(shown),
        (
            "The reward counts something that this earns (length, a tag, a word), and not the content.",
            "Nothing costs: no KL term, no length limit, no second reward.",
        ),
        first_change,
        "likely",
    )


def _since(view: RunView, test: Test, bound: float) -> int:
    """The first of the steps that were read from which on the share stays at the bound or above it."""
    by_step: dict[int, list[bool]] = defaultdict(list)
    for (step, _, _), _, is_one in _tested(view.looked, test):
        by_step[step].append(is_one)
    below = [step for step, found in by_step.items() if fmean(found) < bound]
    return min((step for step in by_step if step > max(below, default=0)), default=view.late_step)


Tested = tuple[Place, CompletionRecord, bool]


def _tested(groups: Groups, test: Test) -> list[Tested]:
    return [(place, c, test(place[1], c)) for place, c in places(_of_one_turn(groups))]


def _of_one_turn(groups: Groups) -> Groups:
    """Without those that an environment answered: moves of a game are alike for good reasons."""
    return [(step, group) for step, group in groups if not group.get("environment")]


def _mean_reward(found: Iterator[CompletionRecord]) -> float | None:
    rewards = [c["reward"] for c in found if c["reward"] is not None]
    return fmean(rewards) if rewards else None


def _reward_moved(view: RunView) -> list[str]:
    found = view.change("reward")
    return [] if found is None else [f"Reward: {found}."]


def _answer(completion: CompletionRecord) -> str:
    """What a completion answers: inside the last tags, else all of it, without case and white space."""
    tagged = _TAGGED.findall(completion["text"])
    text = tagged[-1][1] if tagged else completion["text"]
    return " ".join(text.split()).casefold()


def _quoted(text: str) -> str:
    shown = clean(text)
    return shown if len(shown) <= 60 else shown[:60] + " …"


def _share_in_data(view: RunView) -> float | None:
    """How often the commonest right answer stands in the problems that were read; None without a column of answers."""
    problems = {group["problem"]: group for _, group in view.looked}
    columns = [group["columns"] for group in problems.values()]
    name = next((name for name in (*_named_columns(view), *ANSWER_COLUMNS) if all(name in c for c in columns)), None)
    if name is None:
        return None
    values = [" ".join(str(column[name]).split()).casefold() for column in columns]
    if any(len(value) > MOST_CHARACTERS for value in values):
        return None
    return Counter(values).most_common(1)[0][1] / len(values)


def _named_columns(view: RunView) -> list[str]:
    """Columns that the recipe's rewards read."""
    specs = [spec for spec in view.recipe.get("rewards") or () if isinstance(spec, dict)]
    return [str(spec[key]) for spec in specs for key in ("column", "answer_column") if spec.get(key)]


def _repeats_itself(ids: Sequence[int]) -> bool:
    words = list(map(str, ids))
    threes = list(zip(words, words[1:], words[2:], strict=False))
    return len(ids) >= FEWEST_TOKENS and len(set(threes)) <= DISTINCT * len(threes)


def _is_empty(group: GroupRecord, completion: CompletionRecord) -> bool:
    return not completion["text"].strip()


def _is_empty_tags(group: GroupRecord, completion: CompletionRecord) -> bool:
    tagged = _TAGGED.findall(completion["text"])
    return bool(tagged) and not any(content.strip() for _, content in tagged)


def _is_guesses(group: GroupRecord, completion: CompletionRecord) -> bool:
    for _, content in _TAGGED.findall(completion["text"]):
        words = content.replace(",", " ").split()
        if len({word for word in words if _GUESS.fullmatch(word)}) >= GUESSES:
            return True
    return False


def _is_prompt(group: GroupRecord, completion: CompletionRecord) -> bool:
    prompt, text = (" ".join(each.split()) for each in (prompt_text(group["prompt"]), completion["text"]))
    if len(text) < FEWEST_CHARACTERS or len(prompt) < FEWEST_CHARACTERS:
        return False
    return text in prompt or (prompt in text and len(prompt) >= PROMPT_SHARE * len(text))


EXPLOITS: dict[str, Test] = {
    "empty": _is_empty,
    "tags around nothing": _is_empty_tags,
    "tags stuffed with guesses": _is_guesses,
    "the prompt repeated": _is_prompt,
}
"""Kind of completion, in the words of `groupwise check` -> how it is recognised."""
