"""Kills runs with SIGKILL, resumes them, and compares what they end with to the runs that were never killed.

    PYTHONPATH=tests python -m faults.suite --kills 200 --out bench/results/faults.json

A parent that has imported everything and started no thread forks a child for each attempt, so that an attempt costs as
long as a tiny run takes. Half the kills come after a random time, the others at a random one of all the places where a
run changes something on the disk, and every such place of the smallest run is tried once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from histories import completions, evaluations, history, token_records

import groupwise.report
from faults import kill
from faults.recipes import NUM_STEPS, RECIPES, make_trainer
from groupwise.runs.folder import RunFolder
from groupwise.runs.reader import RunReader

KILLS_OF_A_LIFE = 8
"""After so many a run is let go to its end."""

Result = tuple[int, int]
"""What a child answers: the number of its changes of the disk, and its duration in milliseconds."""


@dataclass
class Figures:
    kills: int = 0
    lives: int = 0
    resumes: int = 0
    differing_runs: int = 0
    lost_steps: int = 0
    doubled_steps: int = 0
    by_phase: Counter[str] = field(default_factory=Counter)
    kills_by_kind: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def attempt(
    name: str, folder: Path, *, die_at: int | None = None, die_after: float | None = None, **changes: Any
) -> Any:
    """Train or resume in a child; its `Result`, or None when it was killed."""
    reading, writing = os.pipe()
    kill.enter("starting")
    child = os.fork()
    if child == 0:
        _child(name, folder, die_at, writing, changes)
    os.close(writing)
    if die_after is not None:
        _wait_at_most(child, die_after)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"{name} in {folder} failed:\n{answer.decode()}")
    return tuple(json.loads(answer))


def _wait_at_most(child: int, seconds: float) -> None:
    """Until the time is over or the child has ended, which it is then killed too late for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.001)


def _child(name: str, folder: Path, die_at: int | None, writing: int, changes: dict[str, Any]) -> None:
    start, code, write = time.monotonic(), 0, os.write
    try:
        torch.set_num_threads(1)
        groupwise.report.write_report = lambda folder, _=None: folder.report / "index.html"  # type: ignore[assignment]
        kill.follow_phases()
        grpo = make_trainer(name, folder, **changes)
        boundaries = kill.Boundaries(die_at)
        kill.enter("between")
        grpo.train(resume_from_checkpoint=RunFolder(folder).is_run)
        kill.enter("finishing")
        write(writing, json.dumps([boundaries.count, round(1000 * (time.monotonic() - start))]).encode())
    except BaseException:
        write(writing, traceback.format_exc().encode())
        code = 1
    finally:
        os._exit(code)


def end_of(folder: Path) -> dict[str, Any]:
    """Everything a run ends with but for times: records, the last checkpoint and the model, byte by byte."""
    run = RunFolder(folder)
    last = run.latest_checkpoint
    assert last is not None
    state = json.loads((last / "state/state.json").read_text())
    state.pop("origin")  # it names the folder, as the callbacks do
    state["parts"].pop("callbacks")
    files = [*sorted(last.glob("*.safetensors")), *sorted(run.final.glob("*.safetensors"))]
    return {
        "metrics": history(folder),
        "completions": completions(folder),
        "evaluations": evaluations(folder),
        "tokens": token_records(folder),
        "step": last.name,
        "state": state,
        **{f"{file.parent.name}/{file.name}": file.read_bytes() for file in files},
    }


def count_differences(name: str, found: Path, wanted: dict[str, Any], num_steps: int, figures: Figures) -> None:
    """Count what a resumed run has that the uninterrupted one has not."""
    end = end_of(found)
    differing = [key for key in wanted if end.get(key) != wanted[key]] + [key for key in end if key not in wanted]
    steps = Counter(record["step"] for record in end["metrics"])
    figures.lost_steps += sum(step not in steps for step in range(1, num_steps + 1))
    figures.doubled_steps += sum(count > 1 for count in steps.values())
    RunReader(found).events()  # every line whole
    left = [path.name for path in found.rglob("*") if path.name.endswith((".part", ".tmp", ".old"))]
    print(f"{figures.kills:4} kills, {figures.lives:3} runs: {name}", file=sys.stderr, flush=True)
    if differing or left:
        figures.differing_runs += 1
        figures.problems.append(f"{name}: {differing} {left}")


@dataclass
class Uninterrupted:
    """A run to compare with, and how long and eventful it was."""

    end: dict[str, Any]
    num_changes: int
    seconds: float


def uninterrupted(name: str, folder: Path, **changes: Any) -> Uninterrupted:
    attempt(name, folder / "first", **changes)  # kernels and caches are built once
    num_changes, milliseconds = attempt(name, folder / "whole", **changes)
    return Uninterrupted(end_of(folder / "whole"), num_changes, milliseconds / 1000)


def live(name: str, folder: Path, whole: Uninterrupted, chance: random.Random, figures: Figures, budget: int) -> None:
    """One run from its start to its end through up to so many kills."""
    while budget > 0:
        at_random_time = chance.random() < 0.5
        killed = (
            attempt(name, folder, die_after=chance.uniform(0, whole.seconds))
            if at_random_time
            else attempt(name, folder, die_at=chance.randrange(whole.num_changes))
        ) is None
        if not killed:
            break
        budget -= 1
        figures.kills += 1
        figures.resumes += 1
        figures.by_phase[kill.phase()] += 1
        figures.kills_by_kind["random time" if at_random_time else "random change of the disk"] += 1
    else:
        attempt(name, folder)
    figures.lives += 1
    count_differences(name, folder, whole.end, NUM_STEPS, figures)


def every_change(folder: Path, figures: Figures, at_most: int | None) -> None:
    """Die once at every place where a run of two steps changes the disk, and once more at every place of resuming."""
    name, settings = "full, mu 2 x 2", {"max_steps": 2, "save_total_limit": 1}
    whole = uninterrupted(name, folder / "every", **settings)
    places = list(range(whole.num_changes))
    for place in places if at_most is None else places[:: max(1, len(places) // at_most)]:
        path = folder / "every" / str(place)
        for die_at in (place, place):  # the second time at a place of the resumed run
            if attempt(name, path, die_at=die_at, **settings) is None:
                figures.kills += 1
                figures.resumes += 1
                figures.by_phase[kill.phase()] += 1
                figures.kills_by_kind["every change of the disk"] += 1
        attempt(name, path, **settings)
        figures.lives += 1
        count_differences(f"{name}, change {place}", path, whole.end, 2, figures)


def names(chance: random.Random) -> Iterator[str]:
    while True:
        yield from chance.sample(list(RECIPES), len(RECIPES))


def run(num_kills: int, seed: int, *, is_thorough: bool) -> Figures:
    figures, chance = Figures(), random.Random(seed)
    assert threading.active_count() == 1, "a forked child has only the thread that forked"
    with tempfile.TemporaryDirectory() as scratch:
        if is_thorough:
            every_change(Path(scratch), figures, None)
        wholes: dict[str, Uninterrupted] = {}
        for number, name in enumerate(names(chance)):
            if figures.kills >= num_kills:
                return figures
            if name not in wholes:
                wholes[name] = uninterrupted(name, Path(scratch) / f"whole-{len(wholes)}")
            budget = min(KILLS_OF_A_LIFE, num_kills - figures.kills)
            live(name, Path(scratch) / f"life-{number}", wholes[name], chance, figures, budget)
    raise AssertionError("names never end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="leave out the pass over every change of the disk")
    parser.add_argument("--out", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not live on in a child
    warnings.simplefilter("ignore", FutureWarning)
    start = time.monotonic()
    figures = run(arguments.kills, arguments.seed, is_thorough=not arguments.quick)
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "make faults",
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - start),
        **vars(figures),
    }
    text = json.dumps(found, indent=1) + "\n"
    print(text, end="")
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    sys.exit(bool(figures.problems or figures.lost_steps or figures.doubled_steps))


if __name__ == "__main__":
    main()
