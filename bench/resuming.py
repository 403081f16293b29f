"""What a checkpoint costs and how long a killed run takes to go on: the demo, its first steps, real model.

Usage: python bench/resuming.py

The recipe runs once to its end, and once more with a SIGKILL in the middle of a later step, after which it is resumed
until it ends. Both must end with the same bits: weights, completions, and every metric that is not a time or a size of
memory. A start lasts from the command to the first token of work: to the first step's line, less that step's time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NoReturn

import common
import runs
from demo_seeds import DEMO

NOT_COMPARED = ("time", "seconds", "per_second", "memory")
"""Parts of the names of metrics that no two runs share."""


class Life:
    """One process that trains or resumes; watched through the lines of `metrics.jsonl`."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self.folder = folder
        self.log = folder.with_suffix(".log").open("a")
        self.start = perf_counter()
        command = [sys.executable, "-m", "groupwise", "train", *arguments]
        self.process = subprocess.Popen(command, cwd=common.ROOT, stdout=self.log, stderr=subprocess.STDOUT)

    def wait_for_steps(self, count: int) -> float:
        """Seconds until so many steps have been recorded."""
        while num_steps(self.folder) < count:
            if self.process.poll() is not None:
                self.fail()
            sleep(0.02)
        return perf_counter() - self.start

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> float:
        """Seconds until it has ended by itself."""
        if self.process.wait() != 0:
            self.fail()
        return perf_counter() - self.start

    def fail(self) -> NoReturn:
        sys.exit(f"the run ended with exit code {self.process.returncode}; see {self.log.name}")


def num_steps(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def start_seconds(life: Life, first: int) -> float:
    """Seconds of a life before its first step, which is step `first`."""
    seconds = life.wait_for_steps(first)
    step = next(m for m in runs.read_metrics(life.folder) if m["step"] == first)
    return seconds - float(step["step_time"])


def checkpoint_seconds(folder: Path) -> list[float]:
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [event["seconds"] for event in events if event["kind"] == "checkpoint"]


def bits(folder: Path) -> dict[str, Any]:
    """What two equal runs share."""
    metrics = runs.read_metrics(folder)
    return {
        "metrics": [{k: v for k, v in m.items() if not any(part in k for part in NOT_COMPARED)} for m in metrics],
        "weights": digests(folder / "final", "*.safetensors"),
        "completions": digests(folder / "completions", "*.jsonl"),
    }


def digests(folder: Path, pattern: str) -> dict[str, str]:
    """Name -> SHA-256 of every file that matches; there is at least one."""
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob(pattern))}
    assert found, f"no {pattern} in {folder}"
    return found


def measure(recipe: Path, settings: Sequence[str], saved: int) -> dict[str, Any]:
    """Both runs, the second killed two steps after `saved`, the step of its first checkpoint."""
    whole, killed = (common.SCRATCH / "resuming" / name for name in ("whole", "killed"))
    for folder in (whole, killed):
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
    options = [part for setting in settings for part in ("--set", setting)]
    life = Life([str(recipe), *options, "--set", f"output_dir={whole}"], whole)
    fresh_s = start_seconds(life, 1)
    whole_s = life.end()
    life = Life([str(recipe), *options, "--set", f"output_dir={killed}"], killed)
    life.wait_for_steps(saved + 1)
    sleep(1.0)
    life.kill()
    life = Life(["--resume", str(killed)], killed)
    while num_steps(killed) != saved and life.process.poll() is None:  # the lines after the checkpoint are cut first
        sleep(0.005)
    resume_s = start_seconds(life, saved + 1)
    life.end()
    one, other = bits(whole), bits(killed)
    saves = checkpoint_seconds(whole)
    return {
        "settings": list(settings),
        "killed_after_step": saved + 1,
        "resumed_from_step": saved,
        "whole_seconds": whole_s,
        "start_seconds": fresh_s,
        "resume_seconds": resume_s,
        "checkpoint_seconds": common.spread(saves),
        "checkpoint_share": sum(saves) / whole_s,
        "is_equal": {part: one[part] == other[part] for part in one},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=DEMO)
    parser.add_argument("--steps", type=int, default=20, help="steps of the run (20)")
    parser.add_argument("--save-steps", type=int, default=10, help="steps from checkpoint to checkpoint (10)")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "resuming.json")
    parser.add_argument("--quick", action="store_true", help="smoke test: four steps of 8 tokens")
    arguments = parser.parse_args()
    steps, every = (4, 2) if arguments.quick else (arguments.steps, arguments.save_steps)
    settings = [f"max_steps={steps}", f"save_steps={every}"]
    if arguments.quick:
        settings += ["max_completion_length=8", "num_eval_problems=2", "prompts_per_step=1"]
    result = {**common.header(), "recipe": arguments.recipe.name, "is_quick": arguments.quick}
    found = measure(arguments.recipe, settings, saved=every)
    print(
        f"a checkpoint {found['checkpoint_seconds']['median']:.2f} s, {found['checkpoint_share']:.2%} of the run; "
        f"start {found['start_seconds']:.1f} s, resume {found['resume_seconds']:.1f} s; "
        f"equal: {', '.join(part for part, equal in found['is_equal'].items() if equal) or 'nothing'}"
    )
    common.save(arguments.output, {**result, **found})
    if not all(found["is_equal"].values()):
        sys.exit("The resumed run is not the uninterrupted one.")


if __name__ == "__main__":
    main()
