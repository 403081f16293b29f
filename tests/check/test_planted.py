"""A recipe without a mistake passes; one with a planted mistake is told which, by its own finding."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from groupwise.check.probes import probe_rows

from .planted import ROWS, checked, names, right


def test_a_sound_recipe_passes_without_a_word(tmp_path: Path) -> None:
    result = checked(tmp_path)
    assert (names(result), result.has_passed, result.first_change) == (set(), True, None)
    assert result.num_checks >= 20


def test_a_constant_reward(tmp_path: Path) -> None:
    result = checked(tmp_path, lambda completions: [1.0] * len(completions))
    assert names(result) == {"constant_reward"}
    assert not result.has_passed
    (finding,) = result.findings
    assert "is 1 for everything: for 32 sampled completions" in finding.what


def test_a_reward_that_likes_the_empty_completion(tmp_path: Path) -> None:
    def quiet(completions: Sequence[str]) -> list[float]:
        return [-float(len(text)) for text in completions]

    result = checked(tmp_path, quiet, rows=[{"prompt": row["prompt"]} for row in ROWS])
    assert names(result, "fail") == {"likes_empty"}
    assert "The empty completion gets 0," in result.findings[0].what


def test_a_reward_of_length_is_not_taken_for_one_that_likes_the_empty_completion(tmp_path: Path) -> None:
    result = checked(tmp_path, {"name": "length", "target": 3}, rows=[{"prompt": row["prompt"]} for row in ROWS])
    assert "likes_empty" not in names(result)


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    def asks(completions: Sequence[str], solution: Sequence[str]) -> list[float]:
        return right(completions, solution)

    result = checked(tmp_path, asks)
    assert names(result, "fail") == {"wrong_column"}
    assert result.first_change is not None
    assert "data.columns: {solution: answer}" in result.first_change
    assert result.evidence is None  # nothing can be scored, so nothing is sampled


def test_a_column_that_the_held_out_problems_lack(tmp_path: Path) -> None:
    result = checked(tmp_path, right, held_out=[{"prompt": f"held out {row['prompt']}"} for row in ROWS])
    assert names(result, "fail") == {"wrong_column"}
    assert "the evaluation data set has no such column" in result.findings[0].what


def test_a_parameter_that_no_column_fills(tmp_path: Path) -> None:
    def asks(completions: Sequence[str], answers: Any = None, answer: Any = None) -> list[float]:
        return right(completions, answer)

    result = checked(tmp_path, asks)
    assert names(result, "warn") == {"wrong_column"}
    assert 'parameter "answers"' in result.findings[0].what


def test_a_column_with_something_else_in_it(tmp_path: Path) -> None:
    rows = [{**row, "answer": f"id-{i}x"} for i, row in enumerate(ROWS)]

    def exact(completions: Sequence[str], answer: Sequence[str]) -> list[float]:
        return [float(f"={gold}=" in text) for text, gold in zip(completions, answer, strict=True)]

    result = checked(tmp_path, exact, rows=rows)
    assert names(result, "fail") == {"gold_unrewarded", "constant_reward"}


def test_a_column_that_is_empty(tmp_path: Path) -> None:
    rows = [{**row, "answer": row["answer"] if i < 3 else None} for i, row in enumerate(ROWS)]

    def lenient(completions: Sequence[str], answer: Sequence[str]) -> list[float | None]:
        return [None if g is None else float(g in text) for text, g in zip(completions, answer, strict=True)]

    assert "empty_column" in names(checked(tmp_path, lenient, rows=rows), "fail")


def test_an_answer_that_leaks_into_the_prompt(tmp_path: Path) -> None:
    rows = [{**row, "prompt": f"{row['prompt']}. answer: {row['answer']}"} for row in ROWS]
    result = checked(tmp_path, rows=rows)
    assert "answer_in_prompt" in names(result, "fail")
    assert "100% of the prompts hold their own answer" in result.findings[0].what


def test_options_of_a_choice_are_no_leak(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}. a, b, c or d?", "answer": "abcd"[i % 4]} for i in range(8)]
    assert "answer_in_prompt" not in names(checked(tmp_path, rows=rows))


def test_too_few_generations_for_the_success_rate(tmp_path: Path) -> None:
    def seldom(completions: Sequence[str]) -> list[float]:
        return [float(text.startswith("ah")) for text in completions]

    def say(group: int, index: int) -> str:
        return "ah." if (group, index) == (2, 1) else "oh."

    result = checked(tmp_path, seldom, say=say, num_generations=2, groups=8, prompts_per_step=8)
    assert "few_signals" in names(result)
    (finding,) = [f for f in result.findings if f.name == "few_signals"]
    assert "12% of the groups have signal at num_generations 2; pooled estimate 12%" in finding.what
    assert "success rate of 6%" in finding.what
    # 1 - (15/16)^16 - (1/16)^16 = 0.64; at 8 it is 0.40
    assert finding.remedy == "Set num_generations: 16 (about 64% of the groups would have signal)."


def test_problems_that_are_solved_always_or_never(tmp_path: Path) -> None:
    def easy(completions: Sequence[str]) -> list[float]:
        return [float(text.startswith("ah")) for text in completions]

    result = checked(tmp_path, easy, say=lambda group, index: "ah." if group % 2 else "oh.")
    assert "uneven_problems" in names(result)
    assert "few_signals" not in names(result)


def test_a_task_that_is_too_hard(tmp_path: Path) -> None:
    result = checked(tmp_path, say=lambda group, index: "who knows")
    assert names(result, "fail") == {"no_signal"}
    assert "All 32 completions of the untrained model get 0. Something better is rarer than one in 10" in (
        result.findings[0].what
    )


def test_a_group_that_is_too_small_to_find_what_is_rare(tmp_path: Path) -> None:
    result = checked(tmp_path, say=lambda group, index: "who knows", num_generations=2)
    assert names(result, "fail") == {"no_signal"}
    assert result.first_change is not None
    assert result.first_change.startswith("Set num_generations: 8")


def test_a_constant_reward_comes_before_the_completions_that_it_makes_of_no_use(tmp_path: Path) -> None:
    def constant(completions: Sequence[str]) -> list[float]:
        return [1.0] * len(completions)

    result = checked(tmp_path, constant, say=lambda group, index: "well " * 20, max_completion_length=8)
    assert names(result, "fail") == {"constant_reward"}
    assert names(result, "warn") == {"completions_cut"}


def test_a_shipped_reward_that_nobody_earns_is_no_constant(tmp_path: Path) -> None:
    result = checked(tmp_path, {"name": "regex", "pattern": "no one says this"})
    assert names(result, "fail") == {"no_signal"}


def test_a_gate_that_never_opens(tmp_path: Path) -> None:
    gated = {"name": "length", "target": 3, "when": {"right": 5}}
    result = checked(tmp_path, [right, gated])
    assert names(result, "warn") == {"gate_shut"}
    assert "Reward \"length\" never counts: its gate (when {'right': 5" in result.findings[0].what
    assert "gate_shut" not in names(checked(tmp_path, [right, {**gated, "when": {"right": 1}}]))


def test_a_column_setting_of_a_shipped_reward_is_mended_there(tmp_path: Path) -> None:
    result = checked(tmp_path, {"name": "number", "column": "anwser"})
    assert result.first_change == "Set column: answer of the reward number."


def test_the_reason_of_a_reward_that_does_not_judge_is_told(tmp_path: Path) -> None:
    def unreachable(completions: Sequence[str], log_why: Any = None) -> list[None]:
        log_why(["no reply: nobody is there"] * len(completions))
        return [None] * len(completions)

    result = checked(tmp_path, unreachable)
    (finding,) = [f for f in result.findings if f.name == "unscored"]
    assert 'Its reason: "no reply: nobody is there".' in finding.what


def test_prompts_that_are_cut(tmp_path: Path) -> None:
    result = checked(tmp_path, max_prompt_length=10)
    assert names(result, "fail") == {"prompt_cut"}
    longest = max(len(row["prompt"]) for row in ROWS)
    assert result.first_change == f"Set max_prompt_length: {longest}, the longest prompt."


def test_a_reward_that_mostly_returns_none(tmp_path: Path) -> None:
    def shy(completions: Sequence[str], answer: Sequence[str]) -> list[float | None]:
        rewards = right(completions, answer)
        return [reward if i % 4 == 0 else None for i, reward in enumerate(rewards)]

    result = checked(tmp_path, shy)
    assert "unscored" in names(result, "fail")
    assert "75% of the completions" in result.findings[0].what


def test_a_reward_that_reads_only_the_prompt(tmp_path: Path) -> None:
    result = checked(tmp_path, lambda prompts: [float(len(prompt)) for prompt in prompts])
    assert names(result) >= {"ignores_completion"}
    assert names(result, "fail") == {"ignores_completion"}


def test_a_slow_reward(tmp_path: Path) -> None:
    def slow(completions: Sequence[str], answer: Sequence[str]) -> list[float]:
        time.sleep(0.01 * len(completions))
        return right(completions, answer)

    result = checked(tmp_path, slow, prompts_per_step=8, num_generations=16, groups=1)
    assert "slow_reward" in names(result, "warn")
    (finding,) = [f for f in result.findings if f.name == "slow_reward"]
    assert "about 1 s a step" in finding.what


def test_two_rewards_in_conflict(tmp_path: Path) -> None:
    def long(completions: Sequence[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    def short(completions: Sequence[str]) -> list[float]:
        return [-(float(len(text)) ** 2) for text in completions]

    result = checked(tmp_path, [long, short])
    assert "conflict" in names(result, "warn")
    assert any("rank correlation -1.00" in finding.what for finding in result.findings)


def test_two_rewards_that_say_the_same(tmp_path: Path) -> None:
    def again(completions: Sequence[str], answer: Sequence[str]) -> list[float]:
        return [2 * reward for reward in right(completions, answer)]

    assert names(checked(tmp_path, [right, again], num_generations=8), "note") == {"redundant"}


def test_a_limit_that_cuts_every_completion(tmp_path: Path) -> None:
    result = checked(
        tmp_path, say=lambda group, index: "well let me think about " + str(group), max_completion_length=8
    )
    assert "completions_cut" in names(result, "fail")
    assert any(f.remedy == "Set max_completion_length: 32." for f in result.findings)


def test_duplicate_problems(tmp_path: Path) -> None:
    rows = [*ROWS, {**ROWS[0], "prompt": ROWS[0]["prompt"].upper()}]
    result = checked(tmp_path, rows=rows, groups=4)
    assert names(result, "warn") == {"duplicate_problems"}
    assert "1 of 9 problems (11.1%)" in result.findings[0].what


def test_one_prompt_with_two_answers(tmp_path: Path) -> None:
    result = checked(tmp_path, rows=[*ROWS, {**ROWS[0], "answer": "9"}])
    assert "contradicting_answers" in names(result, "warn")


@pytest.mark.parametrize(("seen", "level"), [(8, "fail"), (1, "warn")])
def test_held_out_problems_that_are_trained_on(tmp_path: Path, seen: int, level: str) -> None:
    fresh = [{"prompt": f"write {i} in letters", "answer": "x"} for i in range(32)]
    result = checked(tmp_path, held_out=[*ROWS[:seen], *fresh])
    assert names(result, level) == {"eval_in_train"}


def test_too_few_problems_for_a_step(tmp_path: Path) -> None:
    result = checked(tmp_path, prompts_per_step=9)
    assert result.first_change == "Set prompts_per_step: 8, or use more data."


def test_junk_that_is_paid_like_the_right_answer(tmp_path: Path) -> None:
    def anywhere(completions: Sequence[str], answer: Sequence[str]) -> list[float]:
        return [float(gold in text) for text, gold in zip(completions, answer, strict=True)]

    result = checked(tmp_path, anywhere, max_completion_length=200)
    assert "exploit_pays" in names(result, "fail")
    assert any("tags stuffed with guesses" in finding.what for finding in result.findings)


def test_a_reward_that_fails_on_the_empty_completion(tmp_path: Path) -> None:
    def first_word(completions: Sequence[str]) -> list[float]:
        return [float(len(text.split()[0])) for text in completions]

    result = checked(tmp_path, first_word)
    assert names(result, "fail") == {"reward_raises"}
    assert "IndexError" in result.findings[-1].what
    assert result.prompts  # what was seen before is shown


def test_a_model_that_says_nothing(tmp_path: Path) -> None:
    result = checked(tmp_path, say=lambda group, index: "" if index else "1")
    assert "completions_empty" in names(result, "warn")


def test_a_format_after_a_prompt_that_opened_its_tag_can_be_earned(tmp_path: Path) -> None:
    def reason(group: int, index: int) -> str:
        return "so </think><answer>1</answer>" if index % 2 else "so"

    rows = [{**row, "prompt": f"{row['prompt']}<think>"} for row in ROWS]
    rewards = ["format", {"name": "exact_match", "tag": "answer"}]
    result = checked(tmp_path, rewards, say=reason, rows=rows, max_completion_length=60)
    assert result.evidence is not None
    assert result.evidence.functions[0].mean == 0.5
    (gold,) = [row for row in probe_rows(result.evidence.probed) if row.kind == "gold answer alone"]
    assert gold.rewards["format"] == 1
    assert result.has_passed
