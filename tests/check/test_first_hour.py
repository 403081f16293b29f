"""What a newcomer's recipe stumbles over: the check names the cause, not a right reward, and not by a column's name."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from groupwise.check.learning_rate import ADAPTER, WHOLE_MODEL, of_rate
from groupwise.config import load_recipe
from groupwise.rewards import completion_text, resolve_rewards
from groupwise.rewards.gold_answers import gold_column, labels_of, possible_gold_columns

from .planted import ROWS, checked, names, right
from .test_shown import on_screen

WORDS = ("billing", "delivery", "returns", "account", "technical")
ROOT = Path(__file__).parents[2]


def tickets(column: str, *, is_chat: bool = False, num: int = 20) -> list[dict[str, Any]]:
    def prompt(i: int) -> Any:
        text = f"ticket {i}"
        return [{"role": "user", "content": text}] if is_chat else text

    return [{"prompt": prompt(i), column: WORDS[i % 5]} for i in range(num)]


def reading(column: str) -> Callable[..., list[float]]:
    """A right reward whose parameter has the name of the column."""

    def right_word(completions: Sequence[str], **columns: Any) -> list[float]:
        pairs = zip(completions, columns[column], strict=True)
        return [float(completion_text(text).strip().lower() == word) for text, word in pairs]

    namespace: dict[str, Any] = {"inner": right_word}
    exec(f"def right_word(completions, {column}):\n    return inner(completions, {column}={column})", namespace)
    return namespace["right_word"]  # type: ignore[no-any-return]


def talk(group: int, index: int) -> str:
    return "thank you for your message. we will look at it " + "and so on " * index


NAMES = ("answer", "category", "klasse", "x")


@pytest.mark.parametrize("column", NAMES)
@pytest.mark.parametrize("is_chat", [False, True])
def test_the_verdict_does_not_hang_on_the_name_of_the_answers(tmp_path: Path, column: str, is_chat: bool) -> None:
    rows = tickets(column, is_chat=is_chat)
    result = checked(tmp_path, reading(column), rows=rows, say=talk, max_completion_length=40)
    assert names(result, "fail") == {"no_signal"}
    assert names(result, "warn") == {"completions_cut"}
    assert result.first_change is not None
    assert "name the 5 answers" in result.first_change
    assert "pattern: (account|" in result.first_change or "billing|" in result.first_change


@pytest.mark.parametrize("column", ["answer", "category"])
def test_a_column_that_only_the_keywords_of_a_reward_hold_is_found_by_what_it_earns(
    tmp_path: Path, column: str
) -> None:
    def right_word(completions: Sequence[str], **columns: Any) -> list[float]:
        return [float(text.strip() == word) for text, word in zip(completions, columns[column], strict=True)]

    rows = [{**row, "id": f"n{i}", "customer": "ann"} for i, row in enumerate(tickets(column))]
    result = checked(tmp_path, right_word, rows=rows, say=talk, max_completion_length=40)
    assert names(result, "fail") == {"no_signal"}
    assert result.evidence is not None
    assert {each.column for each in result.evidence.probed} == {column}


@pytest.mark.parametrize("limit", [10, 40])
def test_a_limit_is_no_cause_where_the_answers_are_words(tmp_path: Path, limit: int) -> None:
    result = checked(tmp_path, reading("category"), rows=tickets("category"), say=talk, max_completion_length=limit)
    (cut,) = [f for f in result.findings if f.name == "completions_cut"]
    assert cut.level == "warn"
    assert 'the longest is "technical"' in cut.what
    assert cut.remedy.startswith("Leave max_completion_length")


def test_a_limit_below_the_answers_is_a_cause(tmp_path: Path) -> None:
    """A token is a letter here, and billing has seven of them."""
    result = checked(tmp_path, reading("category"), rows=tickets("category"), say=talk, max_completion_length=8)
    assert "completions_cut" in names(result, "fail")


def test_a_limit_is_no_cause_where_the_answer_has_to_stand_alone(tmp_path: Path) -> None:
    def alone(completions: Sequence[str], answer: Sequence[str]) -> list[float]:
        return [float(text == gold) for text, gold in zip(completions, answer, strict=True)]

    result = checked(tmp_path, alone, say=talk, max_completion_length=40)
    assert names(result, "fail") == {"no_signal"}
    assert any(f.remedy.startswith("Leave max_completion_length") for f in result.findings)


def test_rewards_that_are_constant_together_do_not_pass(tmp_path: Path) -> None:
    def one(completions: Sequence[str]) -> list[float]:
        return [1.0] * len(completions)

    def two(completions: Sequence[str]) -> list[float]:
        return [2.0] * len(completions)

    result = checked(tmp_path, [one, two])
    assert not result.has_passed
    assert names(result, "fail") == {"constant_reward"}


def test_rewards_that_take_each_other_back_do_not_pass(tmp_path: Path) -> None:
    def up(completions: Sequence[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    def down(completions: Sequence[str]) -> list[float]:
        return [-float(len(text)) for text in completions]

    result = checked(tmp_path, [up, down])
    assert "same_for_all" in names(result, "fail")
    assert "though up and down differ" in next(f.what for f in result.findings if f.name == "same_for_all")


def constant(completions: Sequence[str]) -> list[float]:
    return [1.0] * len(completions)


def of_prompt(prompts: Sequence[str]) -> list[float]:
    return [float(len(prompt)) for prompt in prompts]


def says_ah(completions: Sequence[str]) -> list[float]:
    return [float(text.startswith("ah")) for text in completions]


NEVER: dict[str, Any] = {"name": "regex", "pattern": "no one says this"}
WITHOUT_SIGNAL = {
    "constant": (constant, talk),
    "constants": ([constant, of_prompt], talk),
    "of the prompt": (of_prompt, talk),
    "shipped and of the prompt": ([NEVER, of_prompt], talk),
    "shipped and constant": ([NEVER, constant], talk),
    "never": ([NEVER, NEVER], talk),
    "too hard": (right, talk),
    "always or never": (says_ah, lambda group, index: "ah." if group % 2 else "oh."),
    "always or never, and more": ([says_ah, constant], lambda group, index: "ah." if group % 2 else "oh."),
    "unscored": (lambda completions: [None] * len(completions), talk),
}


@pytest.mark.parametrize("case", WITHOUT_SIGNAL)
def test_no_recipe_passes_in_which_no_group_has_signal(case: str, tmp_path: Path) -> None:
    rewards, say = WITHOUT_SIGNAL[case]
    result = checked(tmp_path, rewards, say=say)
    assert result.evidence is not None
    assert result.evidence.sampled.signal_share == 0
    assert not result.has_passed
    assert result.first_change


def test_a_constant_reward_is_shown_how_to_try_it(tmp_path: Path) -> None:
    result = checked(tmp_path, constant)
    assert result.first_change is not None
    assert "groupwise reward RECIPE --completions FILE" in result.first_change


def test_a_reward_that_takes_a_chat_for_a_string_is_told_of_the_text(tmp_path: Path) -> None:
    def wrong(completions: Sequence[Any], category: Sequence[str]) -> list[float]:
        return [float(text == word) for text, word in zip(completions, category, strict=True)]

    result = checked(tmp_path, wrong, rows=tickets("category", is_chat=True), say=talk, max_completion_length=200)
    (finding,) = [f for f in result.findings if f.name == "constant_reward"]
    assert "Handed over as plain texts, they get different rewards." in finding.what
    assert "completion_text" in finding.remedy
    assert result.first_change == finding.remedy


def test_one_row_without_an_answer_is_named(tmp_path: Path) -> None:
    rows = tickets("category", num=40)
    del rows[6]["category"]

    def lenient(completions: Sequence[str], category: Sequence[str | None]) -> list[float]:
        return [float(index % 2) for index, _ in enumerate(completions)]

    result = checked(tmp_path, lenient, rows=rows)
    (finding,) = [f for f in result.findings if f.name == "empty_column"]
    assert finding.level == "warn"
    assert '"category", which the rewards read, is empty in 1 of 40 rows' in finding.what
    assert finding.what.endswith(": row 7.")


def test_a_reward_with_a_number_in_its_data_is_no_answer(tmp_path: Path) -> None:
    """What is read is not always the answer: a limit of words is no text that a completion should be."""

    def brief(completions: Sequence[str], most_words: Sequence[int]) -> list[float]:
        pairs = zip(completions, most_words, strict=True)
        return [-float(abs(len(text.split()) - most)) for text, most in pairs]

    rows = [{"prompt": row["prompt"], "most_words": 3 + i % 3} for i, row in enumerate(ROWS)]
    result = checked(tmp_path, brief, rows=rows, say=lambda group, index: "so " * (index + 1) + "it is")
    assert names(result) == set()


def test_a_noisy_reward(tmp_path: Path) -> None:
    draw = random.Random(0)

    def judge(completions: Sequence[str]) -> list[float]:
        return [draw.random() for _ in completions]

    result = checked(tmp_path, judge)
    (finding,) = [f for f in result.findings if f.name == "noisy_reward"]
    assert finding.level == "fail"
    assert "gives 32 of 32 completions another reward when it is called again" in finding.what
    assert "(row " in finding.what


def test_a_reward_with_a_little_noise_is_a_warning(tmp_path: Path) -> None:
    draw = random.Random(0)

    def judge(completions: Sequence[str], answer: Sequence[str]) -> list[float]:
        return [reward + 0.01 * draw.random() for reward in right(completions, answer)]

    assert "noisy_reward" in names(checked(tmp_path, judge, say=lambda g, i: str(i + 1)), "warn")


def test_equal_completions_with_different_rewards(tmp_path: Path) -> None:
    def by_place(completions: Sequence[str]) -> list[float]:
        return [float(i) for i, _ in enumerate(completions)]

    result = checked(tmp_path, by_place, say=lambda group, index: "ah")
    (finding,) = [f for f in result.findings if f.name == "noisy_reward"]
    assert "gives equal completions of one group different rewards (48 pairs)" in finding.what  # 8 groups of 4


def test_a_reward_that_cannot_always_judge_is_noisy_too(tmp_path: Path) -> None:
    calls = itertools.count()

    def flaky(completions: Sequence[str], answer: Sequence[str]) -> list[float | None]:
        is_down = next(calls) == 1
        rewards = right(completions, answer)
        return [None if is_down and i == 0 else reward for i, reward in enumerate(rewards)]

    (finding,) = [f for f in checked(tmp_path, flaky).findings if f.name == "noisy_reward"]
    assert "1 of 32 completions" in finding.what


@pytest.mark.parametrize(
    ("rate", "updates", "is_adapter", "level"),
    [
        (1e-5, 50, True, "warn"),  # the default, in a short run
        (1e-5, 1000, True, None),
        (2e-5, 40, True, "warn"),  # measured: next to nothing (docs/choosing.md)
        (5e-4, 40, True, None),
        (2e-3, 40, True, None),
        (1e-2, 40, True, "warn"),
        (1e-1, 40, True, "fail"),
        (0.0, 40, True, "fail"),
        (1e-6, 10, False, "warn"),
        (1e-6, 100, False, None),
        (2e-5, 100, False, None),
        (5e-4, 100, False, "warn"),
        (2e-3, 100, False, "fail"),
    ],
)
def test_the_learning_rate_and_its_reason(rate: float, updates: int, is_adapter: bool, level: str | None) -> None:
    found = of_rate(rate, updates, is_adapter=is_adapter)
    assert [finding.level for finding in found] == ([] if level is None else [level])
    for finding in found:
        assert "AdamW moves" in finding.what
        assert "Set " in finding.remedy


@pytest.mark.parametrize("updates", [1, 5, 50, 1000, 10**6])
@pytest.mark.parametrize("is_adapter", [True, False])
def test_what_is_proposed_is_no_finding(updates: int, is_adapter: bool) -> None:
    (finding,) = of_rate(1.0, updates, is_adapter=is_adapter)
    proposed = float(finding.remedy.removeprefix("Set learning_rate: ").rstrip("."))
    known = ADAPTER if is_adapter else WHOLE_MODEL
    if known.usual[1] * updates >= known.least_travel:
        assert of_rate(proposed, updates, is_adapter=is_adapter) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_have_a_learning_rate_that_learns(path: Path) -> None:
    recipe = load_recipe(path)
    updates = (recipe.config.max_steps if recipe.config.max_steps > 0 else 1000) * recipe.config.updates_per_step
    rate = recipe.config.peak_learning_rate(has_adapter=recipe.lora is not None)
    assert of_rate(rate, updates, is_adapter=recipe.lora is not None) == []


def test_one_line_for_the_whole_run(tmp_path: Path) -> None:
    shown = on_screen(checked(tmp_path), tmp_path).strip().splitlines()
    (line,) = [line for line in shown if line.startswith("The whole run: ")]
    assert " for 3 steps, " in line
    assert "tokens sampled" in line
    assert "GiB of disk" in line


def test_answers_that_are_labels() -> None:
    assert labels_of(["a b", "c", "c", "a b", "c"]) == ["c", "a b"]
    assert labels_of(["7", "8", "7", "8"]) == []
    assert labels_of([f"word{'s' * i}" for i in range(9)]) == []


def test_columns_that_may_hold_the_answers() -> None:
    columns = ("id", "category", "text")
    (named,) = resolve_rewards(reading("category"))
    assert gold_column(columns, [named]) == "category"
    assert possible_gold_columns(columns, [named]) == ["category"]
    (any_of_them,) = resolve_rewards(lambda completions, **columns: [0.0])
    assert gold_column(columns, [any_of_them]) is None
    assert possible_gold_columns(columns, [any_of_them]) == ["id", "category", "text"]
    (shipped,) = resolve_rewards({"name": "exact_match", "column": "category"})
    assert gold_column(columns, [shipped]) == "category"
    assert possible_gold_columns(columns, [shipped]) == []
