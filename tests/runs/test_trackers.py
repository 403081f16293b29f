"""Tests of the trackers: the real packages where they work offline, and what happens when a service fails."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from groupwise.errors import ConfigError
from groupwise.runs import RunFolder, Trackers, create, open_trackers
from groupwise.runs.trackers import TRACKERS, is_installed, tracker_key

METRICS = {"step": 7, "reward": -12.5, "kl": None, "rewards/length/mean": -12.5, "eval_reward": -9.0, "updates": 7}


def fail(name: str, what: str) -> None:
    raise AssertionError(f"{name}: {what}")


class Recorder:
    """A tracker that remembers, and fails where it is told to."""

    name = "recorder"

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.calls: list[tuple[str, Any]] = []

    def _note(self, call: str, what: Any) -> None:
        self.calls.append((call, what))
        if call == self.failing:
            raise ConnectionError("no route to host")

    def start(self, config: Mapping[str, Any], run_name: str, folder: RunFolder) -> None:
        self._note("start", (dict(config), run_name))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._note("log", (dict(values), step))

    def finish(self) -> None:
        self._note("finish", None)


def test_only_measured_numbers_are_sent_under_the_ecosystems_keys(tmp_path: Path) -> None:
    recorder = Recorder()
    trackers = Trackers([recorder], fail)
    trackers.start({"hub_token": "hf_abcdefghijklmnopqrst", "seed": 1}, "experiment", RunFolder(tmp_path))
    trackers.log(METRICS, 7)
    trackers.finish()
    expected = {"train/reward": -12.5, "train/rewards/length/mean": -12.5, "eval/reward": -9.0, "train/updates": 7.0}
    assert recorder.calls == [
        ("start", ({"hub_token": "***", "seed": 1}, "experiment")),
        ("log", (expected, 7)),
        ("finish", None),
    ]


@pytest.mark.parametrize("failing", ["start", "log", "finish"])
def test_a_tracker_that_fails_is_dropped_once_and_the_others_go_on(tmp_path: Path, failing: str) -> None:
    bad, good = Recorder(failing), Recorder()
    failures: list[tuple[str, str]] = []
    trackers = Trackers([bad, good], lambda name, what: failures.append((name, what)))
    trackers.start({}, "run", RunFolder(tmp_path))
    for step in (1, 2):
        trackers.log(METRICS, step)
    trackers.finish()
    assert failures == [("recorder", "ConnectionError: no route to host")]
    assert [call for call, _ in good.calls] == ["start", "log", "log", "finish"]
    assert [call for call, _ in bad.calls].count(failing) == 1


class Hanging(Recorder):
    """A tracker that does not come back from one of its calls until it is let go."""

    def __init__(self, call: str) -> None:
        super().__init__()
        self.hanging, self.released = call, threading.Event()

    def _note(self, call: str, what: Any) -> None:
        super()._note(call, what)
        if call == self.hanging:
            self.released.wait()


@pytest.mark.parametrize("call", ["start", "log", "finish"])
def test_a_tracker_that_hangs_is_dropped_and_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for name, seconds in {"WAIT_S": 0.05, "CALL_S": 0.1, "FINISH_S": 0.1}.items():
        monkeypatch.setattr(f"groupwise.runs.trackers.{name}", seconds)
    bad, good, failures, began = Hanging(call), Recorder(), [], time.monotonic()
    trackers = Trackers([bad, good], lambda name, what: failures.append(what))
    trackers.start({}, "run", RunFolder(tmp_path))
    for step in range(1, 50):
        trackers.log(METRICS, step)
        time.sleep(0.005)
    trackers.finish()
    assert time.monotonic() - began < 5
    assert [call for call, _ in good.calls] == ["start", *["log"] * 49, "finish"]
    assert failures == [f"its {call} did not end within 0.1 s" if call != "finish" else FINISHED_NOT]
    bad.released.set()


FINISHED_NOT = "it had not sent everything within 0.1 s"


def test_training_does_not_wait_for_a_slow_tracker(tmp_path: Path) -> None:
    slow = Hanging("log")
    trackers = Trackers([slow], fail)
    trackers.start({}, "run", RunFolder(tmp_path))
    began = time.monotonic()
    for step in range(1, 100):
        trackers.log(METRICS, step)
    assert time.monotonic() - began < 0.5
    slow.released.set()
    trackers.finish()
    assert [call for call, _ in slow.calls] == ["start", *["log"] * 99, "finish"]


def test_what_a_tracker_says_of_a_token_is_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Telling(Recorder):
        def _note(self, call: str, what: Any) -> None:
            raise ValueError("bad key 0123456789abcdef0123456789abcdef")

    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef")
    failures: list[str] = []
    Trackers([Telling()], lambda name, what: failures.append(what)).start({}, "run", RunFolder(tmp_path))
    assert failures == ["ValueError: bad key ***"]


def wait_for(condition: Callable[[], bool]) -> None:
    """The trackers' own threads do the work."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_names() -> None:
    assert open_trackers("none", fail).names == []
    assert open_trackers([], fail).names == []
    assert open_trackers(["tensorboard", "none", "tensorboard"], fail).names == ["tensorboard"]
    assert open_trackers("all", fail).names == [name for name in TRACKERS if is_installed(name)]
    with pytest.raises(ConfigError, match=r'Unknown tracker "wandbb".*Did you mean "wandb"'):
        open_trackers(["wandbb"], fail)


def test_a_missing_package_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setattr("groupwise.runs.trackers.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "groupwise\[trackio\]"'):
        open_trackers(["trackio"], fail)


def test_a_folder_named_like_a_package_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somepackage").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_installed("somepackage")
    (tmp_path / "somepackage" / "__init__.py").write_text("")
    assert is_installed("somepackage")


def test_evaluation_has_its_own_tab() -> None:
    assert [tracker_key(key) for key in ("eval_rewards/f/mean", "loss")] == ["eval/rewards/f/mean", "train/loss"]


def test_tensorboard_files_hold_what_was_logged(tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    trackers = open_trackers(["tensorboard"], fail)
    trackers.start({}, "run", create(tmp_path))
    trackers.log(METRICS, 7)
    trackers.finish()
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = [event for event in loader.EventFileLoader(str(path)).Load() if event.summary.value]
    found = {value.tag: value.tensor.float_val[0] for event in events for value in event.summary.value}
    assert {event.step for event in events} == {7}
    assert found == {
        "train/reward": -12.5,
        "train/rewards/length/mean": -12.5,
        "eval/reward": -9.0,
        "train/updates": 7.0,
    }


def fake_trackio() -> tuple[ModuleType, list[Any]]:
    calls: list[Any] = []
    module = ModuleType("trackio")
    module.init = lambda **kwargs: calls.append(kwargs)  # type: ignore[attr-defined]
    module.log = lambda values, step: calls.append((values, step))  # type: ignore[attr-defined]
    module.finish = lambda: calls.append("finish")  # type: ignore[attr-defined]
    return module, calls


def test_trackio_gets_a_run_its_numbers_and_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, calls = fake_trackio()
    monkeypatch.setitem(sys.modules, "trackio", module)
    trackers = Trackers([TRACKERS["trackio"]()], fail)
    trackers.start({"seed": 1}, "experiment", RunFolder(tmp_path))
    trackers.log({"reward": 1.0}, 3)
    trackers.finish()
    assert calls == [
        {"project": "groupwise", "name": "experiment", "config": {"seed": 1}},
        ({"train/reward": 1.0}, 3),
        "finish",
    ]


def test_a_wandb_run_that_the_user_opened_is_used_and_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the package replaced: fast. The real one follows below."""
    calls: list[Any] = []
    run = SimpleNamespace(
        config=SimpleNamespace(update=lambda values, allow_val_change: calls.append(values)),
        define_metric=lambda *args, **kwargs: None,
        log=calls.append,
        finish=lambda: fail("wandb", "finished the user's run"),
    )
    module = ModuleType("wandb")
    module.run = run  # type: ignore[attr-defined]
    module.init = lambda **kwargs: fail("wandb", "opened a second run")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    trackers = Trackers([TRACKERS["wandb"]()], fail)
    trackers.start({"seed": 1}, "experiment", RunFolder(tmp_path))
    trackers.log({"reward": 1.0}, 3)
    trackers.finish()
    assert calls == [{"seed": 1}, {"train/reward": 1.0, "train/global_step": 3}]


@pytest.mark.slow
@pytest.mark.parametrize("is_users", [False, True])
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_users: bool) -> None:
    wandb = pytest.importorskip("wandb")
    for key, value in {"MODE": "offline", "SILENT": "true", "DIR": str(tmp_path), "CONSOLE": "off"}.items():
        monkeypatch.setenv(f"WANDB_{key}", value)
    mine = wandb.init(project="GRPO") if is_users else None
    trackers = open_trackers(["wandb"], fail)
    trackers.start({"seed": 5}, "experiment", create(tmp_path / "run"))
    run = wandb.run
    trackers.log(METRICS, 7)
    wait_for(lambda: "train/reward" in run.summary.keys())  # noqa: SIM118  it is no dict
    logged = dict(run.summary)
    assert run.config["seed"] == 5
    assert logged["train/reward"] == -12.5
    assert logged["train/global_step"] == 7
    trackers.finish()
    if mine is None:
        assert wandb.run is None
        assert list((tmp_path / "run").rglob("run-*.wandb"))
    else:
        assert wandb.run is mine
        assert mine.project == "GRPO"
        mine.finish()


@pytest.mark.slow
def test_trackio_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    pytest.importorskip("trackio")
    trackers = open_trackers(["trackio"], fail)
    trackers.start({"seed": 5}, "experiment", create(tmp_path / "run"))
    trackers.log(METRICS, 7)
    trackers.finish()
    assert list(tmp_path.rglob("*.db"))


class WithTables(Recorder):
    """A tracker that takes tables."""

    def log_table(self, name: str, columns: Any, rows: Any, step: int) -> None:
        self._note("table", (name, columns, rows, step))


def test_tables_go_to_the_trackers_that_take_them_without_secrets() -> None:
    plain, other = Recorder(), WithTables()
    trackers = Trackers([plain, other], fail)
    trackers.log_table("completions", ["prompt", "advantage"], [("hf_abcdefghijklmnopqrst", 0.5)], 2)
    trackers.finish()
    assert ("table", ("completions", ["prompt", "advantage"], [["***", 0.5]], 2)) in other.calls
    assert [call for call, _ in plain.calls] == ["finish"]
