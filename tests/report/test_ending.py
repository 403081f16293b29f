"""The top of a report names what ended a run early, and how to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic import write_run

from groupwise.report.ending import ending, why_ended
from groupwise.runs import RunReader, RunWriter

START, RESUME = {"kind": "start", "step": 0}, {"kind": "resume", "step": 2}
END = {"kind": "end", "step": 3, "is_complete": False}
GUARD = {"kind": "guard", "action": "rollback", "message": "Guard kl (rollback) at step 3."}

ENDINGS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "nothing recorded": ([], ""),
    "complete": ([START, {**END, "is_complete": True}], ""),
    "failed": (
        [START, {"kind": "failed", "step": 3, "error": "RewardError: <no>"}],
        "The run failed after step 3: RewardError: <no>. RESUME",
    ),
    "Ctrl-C": ([START, {"kind": "interrupted", "signal": "SIGINT"}, END], "Ended early after step 3 by SIGINT. RESUME"),
    "Ctrl-C twice": (
        [START, {"kind": "interrupted", "error": "KeyboardInterrupt: "}],
        "The run was stopped at once after step 3: Ctrl-C or SIGTERM came twice. RESUME",
    ),
    "a callback": (
        [START, {"kind": "stopped", "callback": "Mine"}, END],
        "Ended early after step 3 by callback Mine. RESUME",
    ),
    "killed": (
        [START, {"kind": "checkpoint", "step": 2}],
        "The run broke off after step 3 and could not record why: it was killed, or the machine stopped. RESUME",
    ),
    "killed when resumed": (
        [START, {**END, "is_complete": True}, RESUME],
        "The run broke off after step 3 and could not record why: it was killed, or the machine stopped. RESUME",
    ),
    "failed, then complete": (
        [START, {"kind": "failed", "step": 2, "error": "E"}, RESUME, {**END, "is_complete": True}],
        "",
    ),
    "a guard that went back": (
        [START, GUARD, {"kind": "rollback", "to_step": 2, "message": "Went back."}, END],
        "Guard kl (rollback) at step 3. Went back. RESUME",
    ),
    "a guard without a checkpoint": (
        [START, GUARD, {"kind": "rollback", "to_step": None, "message": "No checkpoint."}, END],
        "Guard kl (rollback) at step 3. No checkpoint.",
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_what_ended_a_run_is_named(name: str) -> None:
    events, words = ENDINGS[name]
    assert why_ended(events, 3, resume="RESUME") == words


def test_a_run_that_is_being_written_is_no_broken_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a run", num_steps=4)
    with RunWriter(folder) as writer:
        writer.event("start", step=0)
        assert ending(RunReader(folder)) == "The run is under way."
    assert ending(RunReader(folder)).startswith("The run broke off after step 4")


@pytest.mark.parametrize("recipe_folder", [None, "somewhere"])
def test_how_to_go_on_is_what_started_the_run(tmp_path: Path, recipe_folder: str | None) -> None:
    folder = write_run(tmp_path / "a run", num_steps=4)
    (folder.checkpoint_of(2) / "state").mkdir(parents=True)
    with RunWriter(folder) as writer:
        writer.config({**RunReader(folder).config, "recipe_folder": recipe_folder})
        writer.event("start", step=0)
        writer.event("failed", step=4, error="OSError: gone")
    way = "trainer.train(resume_from_checkpoint=True)"
    if recipe_folder is not None:
        way = f"groupwise train '{folder.path}' --resume"
    said = ending(RunReader(folder))
    assert said == f"The run failed after step 4: OSError: gone. To go on from the checkpoint of step 2: {way}"
