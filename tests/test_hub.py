"""Every wait has an end: for the Hub, and for any call of somebody else's."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hub_stub import running
from huggingface_hub import constants

from groupwise import hub
from groupwise.data import load_problems
from groupwise.errors import DataError, ModelError
from groupwise.hub import hub_or_cache, offline_if_unreachable, why_unreachable
from groupwise.policy.load_model import load_model, load_tokenizer
from groupwise.rewards.model import RewardModel
from groupwise.waiting import within


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_asked", {})
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def hub_at(monkeypatch: pytest.MonkeyPatch, *, answers: bool) -> Iterator[None]:
    """A Hub whose door is shut, or one that takes a call and never says a word."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        if answers:
            door.listen()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{door.getsockname()[1]}")
        yield


@pytest.mark.parametrize("answers", [False, True])
def test_a_hub_that_cannot_be_reached_is_one_sentence_within_seconds(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], answers: bool
) -> None:
    monkeypatch.setattr(hub, "ANSWER_S", 0.3)
    began = time.monotonic()
    with hub_at(monkeypatch, answers=answers):
        for load, error in (
            (lambda: load_model("nobody/x", device=torch.device("cpu"), full=True), ModelError),
            (lambda: load_tokenizer("nobody/x"), ModelError),
            (lambda: RewardModel("nobody/x").load(), ModelError),
            (lambda: load_problems("nobody/x"), DataError),
        ):
            with pytest.raises(
                error, match=r'The Hub cannot be reached at http://.*no copy of "nobody/x" in its cache'
            ):
                load()
    assert time.monotonic() - began < 20
    assert "Retrying" not in "".join(capfd.readouterr())
    assert not constants.HF_HUB_OFFLINE
    assert "HF_HUB_OFFLINE" not in os.environ


def test_the_hub_is_asked_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub, "_ask", asked.append)
    assert [why_unreachable() for _ in range(3)] == [None] * 3
    monkeypatch.setattr(hub, "_REMEMBERED_S", 0.0)
    why_unreachable()
    assert len(asked) == 2


def test_a_hub_that_answers_is_reachable_whatever_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(monkeypatch):
        assert why_unreachable() is None
        with hub_or_cache("user/x") as why:
            assert why(OSError("no such file")) == "no such file"


def test_a_hub_switched_off_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_ask", lambda endpoint: pytest.fail("asked"))
    with hub_or_cache("user/x") as why:
        assert "switched off (HF_HUB_OFFLINE)" in why(OSError("no such file"))
        assert why(ValueError("Unknown split")) == "Unknown split"


def test_without_a_base_on_the_hub_saving_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "why_unreachable", lambda: pytest.fail("asked"))
    with offline_if_unreachable(None):
        pass


def test_an_adapter_on_a_hub_model_is_saved_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tiny import tiny_model, tiny_tokenizer, with_lora

    from groupwise.policy.save import save_policy

    model = with_lora(tiny_model())
    model.peft_config["default"].base_model_name_or_path = "nobody/x"
    began = time.monotonic()
    with hub_at(monkeypatch, answers=False):
        save_policy(model, tiny_tokenizer(), tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert time.monotonic() - began < 5


def test_a_call_in_time_gives_its_value_or_its_error() -> None:
    assert within(5, lambda: 3, name="it") == 3
    with pytest.raises(KeyError, match="gone"):
        within(5, lambda: {}["gone"], name="it")


def test_a_call_that_hangs_is_left_behind() -> None:
    released = threading.Event()
    with pytest.raises(TimeoutError, match=r"the wall did not end within 0\.05 s"):
        within(0.05, released.wait, name="the wall")
    (thread,) = [t for t in threading.enumerate() if t.name == "groupwise-the wall"]
    assert thread.daemon, "the process may end without it"
    released.set()
    thread.join(5)
