"""What the report shows of held-out completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scored import scored_group
from synthetic import CONFIG, make_groups, make_metrics, write_run

from groupwise.report import write_report
from groupwise.report.figures import FIGURES
from groupwise.report.held_out import OTHER, confusion, held_out_of
from groupwise.runs import RunFolder, RunReader, RunWriter, create
from groupwise.runs.folder import SCHEMA_VERSION
from groupwise.runs.records import EvaluationRecord, evaluation_record
from groupwise.types import Completion, Problem


def record(text: str, answer: str | None, *, kind: str = "greedy", problem: int = 0, name: str = "") -> Any:
    completion = Completion((4, 1), (-1.0, -0.5), "stop", 3, text)
    group = scored_group(problem, Problem(problem, f"p{problem}"), (4,), (completion,), reward=(0.5,))
    return evaluation_record(group, kind, name, answer, SCHEMA_VERSION)


def given(*pairs: tuple[str, str | None]) -> list[EvaluationRecord]:
    return [record(text, answer, problem=i) for i, (text, answer) in enumerate(pairs)]


def test_answers_are_counted_by_the_datas_own() -> None:
    table = confusion(
        given(
            *(("billing", "Billing"), ("It is billing.", "billing"), (" Refund!", "billing"), ("refund", "refund")),
            *(("billing or refund", "refund"), ("nothing", "refund"), ("billings", "refund"), ("x", None)),
        )
    )
    assert table is not None
    assert table.given == ("Billing", "refund", OTHER)
    assert table.rows == (("Billing", (2, 1, 0)), ("refund", (0, 1, 3)))


@pytest.mark.parametrize("answers", [["a"] * 5, [str(i) for i in range(13)], [None]], ids=["one", "many", "none"])
def test_one_answer_or_many_make_no_table(answers: list[str | None]) -> None:
    assert confusion(given(*(("a", answer) for answer in answers))) is None


def written(path: Path, *evaluations: list[EvaluationRecord]) -> RunFolder:
    with RunWriter(create(path)) as writer:
        writer.config(CONFIG)
        writer.event("start")
        for step in range(1, 16):
            writer.step(make_metrics(step, make_groups(step)))
        for number, records in enumerate(evaluations):
            writer.evaluations(5 * number, records)
        return writer.folder


@pytest.fixture(autouse=True)
def one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groupwise.report.write.FIGURES", {"reward": FIGURES["reward"]})


def test_the_report_shows_the_first_evaluation_beside_the_last(tmp_path: Path) -> None:
    script = "<script>alert(1)</script>"
    first = [record("before", "yes", problem=0), record("before", "no", problem=1), record("s", "no", kind="sampled")]
    last = [record(script, "yes", problem=0), record("no", "no", problem=1), record("s", "no", kind="sampled")]
    folder = written(tmp_path, first, last)
    (shown,) = held_out_of(RunReader(folder))
    assert (shown.kind, shown.first_step, shown.last_step, shown.name) == ("greedy", 0, 5, "")
    assert [(p.answer, p.first["text"], p.last["text"]) for p in shown.problems if p.first and p.last] == [
        *(("yes", "before", script), ("no", "before", "no"))
    ]
    page = write_report(folder).read_text()
    assert "Held-out completions" in page
    assert "untrained" in page
    assert "after step 5" in page
    assert script not in page
    assert "something else" in page


def test_sets_are_shown_one_by_one_and_an_older_run_has_none(tmp_path: Path) -> None:
    names = [record("a", "a", name=name) for name in ("easy", "hard")]
    page = write_report(written(tmp_path / "sets", names)).read_text()
    assert "Held-out completions: easy" in page
    assert "Held-out completions: hard" in page
    assert "Held-out" not in write_report(write_run(tmp_path / "older", num_steps=2)).read_text()
