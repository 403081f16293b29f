"""Every sign is found in a run that shows it, and none in a healthy one, however far it has come."""

from __future__ import annotations

from pathlib import Path

import pytest

from groupwise.diagnose import diagnose
from groupwise.diagnose.diagnosis import CERTAINTIES
from groupwise.diagnose.doctor import closing_lines, examine, in_full, in_short
from groupwise.diagnose.signs import SIGNS
from tests.diagnose.written import CASES, STEPS, WORDS, healthy, late, texts, write


def test_every_sign_has_a_run_that_shows_it():
    assert [sign.name for sign in SIGNS] == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_run_shows_its_sign(tmp_path, name):
    run = CASES[name](tmp_path / "run")
    found = {each.name: each for each in diagnose(run)}
    assert name in found
    diagnosis = found[name]
    assert 1 <= diagnosis.first_step <= diagnosis.last_step <= STEPS
    assert diagnosis.evidence
    assert diagnosis.causes
    assert diagnosis.first_change.endswith(".")
    assert any(character.isdigit() for character in " ".join(diagnosis.evidence))
    assert len(diagnosis.examples) in (0, 2)
    assert diagnosis.symptom in in_full([diagnosis])


def test_a_healthy_run_shows_none_at_any_step(tmp_path):
    run = healthy(tmp_path / "run")
    assert {step: names for step in range(1, STEPS + 1) if (names := [d.name for d in diagnose(run, step)])} == {}
    assert in_full([]) == "Nothing found: no sign of the table in docs/doctor.md."


def test_the_surest_comes_first(tmp_path):
    run = CASES["only_format_learnt"](tmp_path / "run")
    order = [CERTAINTIES.index(each.certainty) for each in diagnose(run)]
    assert order == sorted(order)


def test_a_run_without_a_step_has_no_diagnosis(tmp_path):
    run = healthy(tmp_path / "run")
    assert diagnose(run, until=0) == []


def test_the_last_words_name_the_first_change_of_a_run_that_did_not_learn(tmp_path):
    run = CASES["all_failed"](tmp_path / "run")
    words = "\n".join(closing_lines(examine(run)))
    assert "First change: Take easier problems" in words
    assert f"groupwise doctor {tmp_path / 'run'}" in words
    assert "100% in groups without signal" in words


def test_the_last_words_of_a_run_that_learns_are_few(tmp_path):
    words = closing_lines(examine(healthy(Path(tmp_path) / "run")))
    assert words[0].startswith("The reward rose")
    assert not any("First change" in line for line in words)


def test_one_answer_is_named_although_the_reward_rises(tmp_path):
    def always(step, place, rng):
        said = "apple" if rng.random() < late(step, 1) else rng.choice(WORDS)
        return said, {"right": 0.2 + 0.6 * (said == "apple")}

    run = write(tmp_path / "run", texts(always, lambda place: WORDS[place]))
    words = closing_lines(examine(run))
    assert words[0].startswith("The reward rose")
    assert any(line.startswith('The policy gives one answer whatever the prompt: "apple"') for line in words)


def test_no_more_than_a_few_are_told_in_short(tmp_path):
    found = diagnose(CASES["all_failed"](tmp_path / "run"))
    assert in_short(found * 5)[-1] == f"And {5 * len(found) - 3} more."
