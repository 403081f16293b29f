"""Mistakes planted in an environment, or in how it is played, and what the check finds and shows of the turns."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import pytest
from tiny import EOS

from groupwise.check.check_page import page
from groupwise.check.check_screen import show
from groupwise.check.result import Result
from groupwise.environments import Call, Observation, Reply, Tool, Toolbox, ToolEnvironment
from groupwise.rollout.engine import Capabilities
from groupwise.rollout.scripted import ScriptedEngine

from .planted import checked, names, policy

COUNTER = itertools.count()
TURNS: dict[str, Any] = {"max_turns": 3, "max_turn_length": 8, "max_completion_length": 120}


class Longer:
    """Two turns; the second one is worth its letters."""

    begins = ""

    def reset(self, problem: Any, seed: int) -> str:
        self.turn = 0
        return self.begins

    def step(self, reply: Reply) -> Observation:
        self.turn += 1
        if self.turn == 2:
            return Observation(reward=float(len(reply.text)), done=True)
        return Observation([{"role": "user", "content": f"heard {reply.text[:2]}"}])

    def close(self) -> None:
        pass


def played(tmp_path: Path, environment: Any, **settings: Any) -> Result:
    return checked(tmp_path, [], environment=environment, engine=Short(), **{**TURNS, **settings})


class Short(ScriptedEngine):
    """Writes a little more in every completion of a group, in each of its turns."""

    def __init__(self) -> None:
        super().__init__(lambda request, index: self._ids(request.seed[3] if request.seed[3:] else index))
        self.capabilities = Capabilities("scripted", keeps_logprobs=False)

    def _ids(self, index: int) -> list[int]:
        return [*policy().tokenizer.encode("ab" * (index % 3 + 1), add_special_tokens=False), EOS]


def on_screen(result: Result, tmp_path: Path) -> str:
    stream = io.StringIO()
    show(result, tmp_path / "index.html", stream)
    return " ".join(stream.getvalue().split())


def test_a_sound_environment_is_shown_turn_by_turn(tmp_path: Path) -> None:
    result = played(tmp_path, Longer)
    assert not names(result, "fail"), result.findings
    shown, html = on_screen(result, tmp_path), page(result)
    for text in (
        "environment Longer, 3 turns at most",
        "turns 2.00 in the mean, 2 at most; 0% cut off after max_turns",
    ):
        assert text in shown
    for text in ("policy, turn 1: ab", "user: heard ab", "policy, turn 2, reward "):
        assert text in shown
        assert text in html
    assert " 0% failed" in html


def test_made_up_replies_are_played(tmp_path: Path) -> None:
    class Empty(Longer):
        """It likes who says nothing."""

        def step(self, reply: Reply) -> Observation:
            found = super().step(reply)
            return Observation(found.messages, -(found.reward or 0.0) if found.done else None, found.done)

    result = played(tmp_path, Empty)
    assert "likes_empty" in names(result, "fail")
    assert result.evidence is not None
    (probed, *_) = result.evidence.probed
    assert all(len(completion.turns) == 2 for completion in probed.group.completions)
    assert probed.best("empty") == 0.0


def test_the_first_words_of_an_environment_are_shown(tmp_path: Path) -> None:
    class Asks(Longer):
        begins = " and more"

    assert "begins with write one in digits and more" in on_screen(
        played(tmp_path, Asks, shuffle_dataset=False), tmp_path
    )


class Fragile(Longer):
    """It breaks down at an empty reply."""

    def step(self, reply: Reply) -> Observation:
        1 / len(reply.text)
        return super().step(reply)


def test_an_environment_that_no_reply_suits(tmp_path: Path) -> None:
    class Broken(Fragile):
        def step(self, reply: Reply) -> Observation:
            raise RuntimeError("no such room")

    result = played(tmp_path, Broken)
    assert "environment_fails" in names(result, "fail")
    assert "no such room" in on_screen(result, tmp_path)
    assert result.evidence is None


def test_an_environment_that_fails_now_and_then(tmp_path: Path) -> None:
    class Unlucky(Longer):
        def step(self, reply: Reply) -> Observation:
            if next(COUNTER) % 7 == 0:
                raise RuntimeError("lost the connection")
            return super().step(reply)

    result = played(tmp_path, Unlucky)
    assert "environment_fails" in names(result, "warn")
    assert result.evidence is not None


def test_starts_that_differ(tmp_path: Path) -> None:
    class Anew(Longer):
        @property
        def begins(self) -> str:  # type: ignore[override]
            return f" {next(COUNTER)}"

    assert "starts_differ" in names(played(tmp_path, Anew), "warn")


def test_a_game_that_is_longer_than_max_turns(tmp_path: Path) -> None:
    found = names(played(tmp_path, Longer, max_turns=1), "warn")
    assert "out_of_turns" in found
    assert "wrong_column" not in found


def tools() -> ToolEnvironment:
    return ToolEnvironment(Toolbox([Tool("double", lambda x: 2 * x)]))


def test_tools_that_are_never_called(tmp_path: Path) -> None:
    result = checked(tmp_path, {"name": "length", "target": 3}, environment=tools, engine=Short(), **TURNS)
    assert "tools_unused" in names(result, "warn")


def test_calls_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = (Call("", error="no name. Write JSON."),)
    read = lambda self, text, ids, before, schemas: wrong if len(text) > 2 else ()  # noqa: E731
    monkeypatch.setattr("groupwise.tool_calls.ToolChat.calls", read)
    result = checked(tmp_path, {"name": "length", "target": 3}, environment=tools, engine=Short(), **TURNS)
    assert "calls_fail" in names(result, "warn")
    assert "tools_unused" not in names(result)
    shown = on_screen(result, tmp_path)
    assert "of them failed" in shown
    assert "call of no name failed (no name. Write JSON.)" in shown


def test_turns_that_are_cut_are_no_matter_of_the_whole_length(tmp_path: Path) -> None:
    result = played(tmp_path, Longer, max_turn_length=2)
    (found,) = [finding for finding in result.findings if finding.name == "completions_cut"]
    assert "in their last turn, at max_turn_length 2" in found.what
    assert "max_turn_length: 8" in found.remedy
