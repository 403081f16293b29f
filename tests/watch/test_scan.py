"""A search comes through every step, however small the time of one call, and finds what a plain loop finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic import make_groups, make_metrics

from groupwise.errors import ConfigError
from groupwise.runs import RunFolder, RunReader, RunWriter, open_run
from groupwise.watch.scan import Hits, Query, draws_of, search


def all_of(folder: RunFolder, query: Query, budget_s: float) -> list[Hits]:
    steps, parts = folder.completion_steps(), []
    while True:
        parts.append(search(folder, steps, query, budget_s))
        if parts[-1].next_step is None:
            return parts
        steps = [step for step in steps if step <= parts[-1].next_step]


def plainly(path: Path, text: str) -> set[tuple[int, int, int]]:
    reader = RunReader(path)
    return {
        (step, group["problem"], number)
        for step in reader.completion_steps()
        for group in reader.completions(step)
        for number, completion in enumerate(group["completions"])
        if text.lower() in completion["text"].lower()
    }


@pytest.mark.parametrize("text", ["BINDS names to values & modifies <i>items</i> of", "no such words", ""])
@pytest.mark.parametrize("budget_s", [0.0, 60.0])
def test_a_search_finds_what_a_loop_finds(run: Path, text: str, budget_s: float) -> None:
    parts = all_of(open_run(run), Query(text=text), budget_s)
    hits = [(hit["step"], hit["problem"], hit["number"]) for part in parts for hit in part.hits]
    assert set(hits) == plainly(run, text)
    assert len(hits) == len(set(hits))
    assert [hit[0] for hit in hits] == sorted((hit[0] for hit in hits), reverse=True)
    assert sum(part.num_steps for part in parts) == 6
    assert len(parts) == (6 if budget_s == 0 else 1)


def test_the_best_and_the_worst_come_first(run: Path) -> None:
    folder = open_run(run)
    steps = folder.completion_steps()
    best = [hit["rewards"] for hit in search(folder, steps, Query(order="best"), 60).hits]
    worst = [hit["rewards"] for hit in search(folder, steps, Query(order="worst"), 60).hits]
    assert best == sorted(best, reverse=True)
    assert worst == sorted(worst)
    assert best[0] == worst[-1] == max(best)


def test_what_was_cut_off(run: Path) -> None:
    folder = open_run(run)
    hits = search(folder, folder.completion_steps(), Query(is_cut_off=True), 60).hits
    assert hits
    assert {hit["stops"] for hit in hits} == {"length"}


def test_an_order_that_nothing_was_recorded_for_is_empty(run: Path) -> None:
    folder = open_run(run)
    assert search(folder, folder.completion_steps(), Query(order="kl"), 60).hits == []
    assert search(folder, folder.completion_steps(), Query(order="conflict"), 60).hits == []  # one function is constant


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of latest"):
        Query(order="sideways")


def test_the_draws_of_a_problem(run: Path) -> None:
    folder = open_run(run)
    found = draws_of(folder, folder.completion_steps(), 1, 60)
    assert [row["step"] for row in found.hits] == [6, 5, 4, 3, 2, 1]
    assert {row["problem"] for row in found.hits} == {1}
    assert draws_of(folder, folder.completion_steps(), 11, 60).hits == []


def test_a_step_that_is_cut_meanwhile_is_passed_over(run: Path) -> None:
    folder = open_run(run)
    steps = folder.completion_steps()
    RunReader(run).cut_after(2)
    assert {hit["step"] for hit in search(folder, steps, Query(), 60).hits} == {1, 2}


@pytest.mark.parametrize("text", ["ähre", "ÄHRE", '"日本"', "back\\slash"])
def test_words_that_json_escapes_or_spells_otherwise_are_found(run: Path, text: str) -> None:
    path = run / "completions" / "step-000006.jsonl"
    record = json.loads(path.read_text().splitlines()[0])
    record["completions"][2]["text"] = 'An Ähre, "日本" and a back\\slash'
    path.write_text(json.dumps(record, ensure_ascii=False) + "\n")
    (hit,) = search(open_run(run), [6], Query(text=text), 60).hits
    assert hit["number"] == 2


def test_the_writer_is_not_disturbed(run: Path) -> None:
    with RunWriter(open_run(run)) as writer:
        search(open_run(run), [6], Query(), 60)
        writer.step(make_metrics(7, make_groups(7)))
