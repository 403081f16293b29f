"""Kills random ranks with SIGKILL, resumes on other numbers of ranks, and compares with runs that were never killed.

    python -m tests.ranks.kills --kills 30 --out bench/results/ranks_kills.json

A parent that has imported everything forks the ranks of each attempt. A rank is killed once all have joined: before
that, a launcher ends the others. Half the kills come after a random time and hit any rank, the others hit rank 0 at a
random one of all the places where it changes something on the disk. Every second run stays on two ranks and has to end
with the same bits; the others move between 1, 2 and 4 ranks, and have to end with the same draws and tokens, and with
weights within `ACROSS_SIZES`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tests.faults import kill
from tests.histories import completions, history
from tests.ranks import scenarios
from tests.ranks.launching import Running

SIZES = (1, 2, 2, 4)
KILLS_OF_A_LIFE = 5
"""After so many a run is let go to its end."""
END_SECONDS = 60.0
"""All ranks have ended so long after one was killed."""
ACROSS_SIZES = 2e-5
JOINING = 255
"""In the place of a phase: the rank has not joined the others yet."""
SAVED: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "max_steps": 6}
RECIPES: dict[str, dict[str, Any]] = {
    "mu 2 x 3": {},
    "environment": {"environment": True},
    "dynamic sampling": {"seed": 5, "is_sparse": True, "dynamic_sampling": True, "num_minibatches": 1},
    "shards, reference": {"shard": "full", "beta": 0.04},
}


@dataclass
class Figures:
    kills: int = 0
    lives: int = 0
    lost_steps: int = 0
    doubled_steps: int = 0
    differing_at_equal_size: int = 0
    largest_difference_across_sizes: float = 0.0
    longest_end_s: float = 0.0
    median_end_s: float = 0.0
    by_rank: Counter[str] = field(default_factory=Counter)
    by_phase: Counter[str] = field(default_factory=Counter)
    by_kind: Counter[str] = field(default_factory=Counter)
    moves: Counter[str] = field(default_factory=Counter)
    """Ranks before and after a resume."""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class End:
    """What a run ends with."""

    metrics: list[dict[str, Any]]
    groups: list[Any]
    """Draw and token ids of every group."""
    weights: dict[str, torch.Tensor]
    seconds: float = 0.0
    num_changes: int = 0

    @classmethod
    def of(cls, folder: Path, seconds: float = 0.0) -> End:
        lines = [json.loads(line) for text in completions(folder / "run").values() for line in text.splitlines()]
        groups = [(line["draw"], [c["ids"] for c in line["completions"]]) for line in lines]
        weights = torch.load(folder / "weights-0.pt")
        num_changes = json.loads((folder / "rank-0.json").read_text())
        return cls(history(folder / "run"), groups, weights, seconds, num_changes)

    def difference(self, other: End) -> float:
        return max(float((mine - other.weights[name]).abs().max()) for name, mine in self.weights.items())


class Attempt(Running):
    """Ranks under way."""

    def wait(self, seconds: float) -> bool:
        """Whether all have ended within this time."""
        end = time.monotonic() + seconds
        while self.ranks and time.monotonic() < end:
            for pid in list(self.ranks):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    self.codes[self.ranks.pop(pid)] = os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        return not self.ranks

    def kill(self, rank: int) -> None:
        for pid in [pid for pid, each in self.ranks.items() if each == rank]:
            os.kill(pid, signal.SIGKILL)

    @property
    def is_killed(self) -> bool:
        return -signal.SIGKILL in self.codes


def launch(folder: Path, size: int, settings: dict[str, Any]) -> Attempt:
    return Attempt({"name": folder.name, "size": size, "scenario": "lives_on", "argument": settings}, folder.parent)


def uninterrupted(folder: Path, size: int, settings: dict[str, Any]) -> End:
    start = time.monotonic()
    attempt = launch(folder, size, settings)
    if not attempt.wait(600) or any(attempt.codes):
        raise RuntimeError((folder / "output.txt").read_text())
    return End.of(folder, time.monotonic() - start)


def kill_once(folder: Path, size: int, settings: dict[str, Any], whole: End, chance: random.Random) -> Any:
    """(rank, kind, seconds until all had ended), or None where the run came to its end before."""
    at_random_time = chance.random() < 0.5
    victim = chance.randrange(size) if at_random_time else 0
    more = {} if at_random_time else {"die_at": chance.randrange(whole.num_changes)}
    kill.PLACE[0] = JOINING
    attempt = launch(folder, size, {**settings, **more, "victim": victim})
    while kill.PLACE[0] == JOINING and attempt.ranks:
        attempt.wait(0.01)
    if at_random_time:
        attempt.wait(chance.uniform(0.0, 0.9) * whole.seconds)
        attempt.kill(victim)
    start = time.monotonic()
    while attempt.ranks and victim in attempt.ranks.values():
        attempt.wait(0.01)
        if attempt.is_killed:
            start = time.monotonic()
    has_ended = attempt.wait(END_SECONDS)
    if not has_ended:
        for rank in list(attempt.ranks.values()):
            attempt.kill(rank)
        attempt.wait(10)
        raise RuntimeError(f"Not all ranks ended within {END_SECONDS:g} s:\n{(folder / 'output.txt').read_text()}")
    if not attempt.is_killed:
        if any(attempt.codes):
            raise RuntimeError((folder / "output.txt").read_text())
        return None
    return victim, "random time" if at_random_time else "change of the disk", time.monotonic() - start


def live(folder: Path, name: str, whole: End, chance: random.Random, figures: Figures, ends: list[float]) -> None:
    """One run from its start to its end through several kills; it stays on two ranks, or moves."""
    settings, moves = {**RECIPES[name], **SAVED}, figures.lives % 2 == 1
    budget, size = KILLS_OF_A_LIFE, 2
    while budget > 0:
        size, before = chance.choice(SIZES) if moves else 2, size
        found = kill_once(folder, size, settings, whole, chance)
        if found is None:
            break
        rank, kind, seconds = found
        budget, figures.kills = budget - 1, figures.kills + 1
        figures.by_rank[f"{rank} of {size}"] += 1
        figures.by_phase[phase()] += 1
        figures.by_kind[kind] += 1
        figures.moves[f"{before} -> {size}"] += 1
        ends.append(seconds)
        print(f"{figures.kills:3} kills: {name}, rank {rank} of {size}, {kind}, {phase()}", file=sys.stderr)
    else:
        uninterrupted(folder, chance.choice(SIZES) if moves else 2, settings)
    figures.lives += 1
    compare(name, End.of(folder), whole, moves, figures)


def phase() -> str:
    """What the killed rank was doing; the start of a run and what lies between two phases are not told apart."""
    return kill.phase().replace("starting", "starting, between")


def compare(name: str, found: End, whole: End, moves: bool, figures: Figures) -> None:
    """Count what a resumed run has that the uninterrupted one has not."""
    steps = Counter(record["step"] for record in found.metrics)
    figures.lost_steps += sum(step not in steps for step in range(1, SAVED["max_steps"] + 1))
    figures.doubled_steps += sum(count > 1 for count in steps.values())
    if found.groups != whole.groups:
        figures.problems.append(f"{name}: other draws or tokens")
    difference = found.difference(whole)
    if moves:
        figures.largest_difference_across_sizes = max(figures.largest_difference_across_sizes, difference)
    is_same = difference == 0.0 and found.metrics == whole.metrics
    if not moves and not is_same:
        figures.differing_at_equal_size += 1
    if difference > ACROSS_SIZES if moves else not is_same:
        figures.problems.append(f"{name}: weights differ by {difference:g}, or the metrics do")


def run(num_kills: int, seed: int, scratch: Path) -> Figures:
    figures, chance, ends = Figures(), random.Random(seed), list[float]()
    wholes: dict[str, End] = {}
    while figures.kills < num_kills:
        name = list(RECIPES)[figures.lives // 2 % len(RECIPES)]
        if name not in wholes:
            wholes[name] = uninterrupted(scratch / f"whole-{len(wholes)}", 2, {**RECIPES[name], **SAVED})
        live(scratch / f"life-{figures.lives}", name, wholes[name], chance, figures, ends)
    figures.longest_end_s, figures.median_end_s = round(max(ends), 1), round(median(ends), 1)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    os.environ.update(TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    assert scenarios.lives_on, "imported before anything is forked"
    warnings.simplefilter("ignore", FutureWarning)
    start = time.monotonic()
    scratch = Path(tempfile.mkdtemp())  # no TemporaryDirectory: a rank that ends would delete it
    try:
        figures = run(arguments.kills, arguments.seed, scratch)
    finally:
        shutil.rmtree(scratch)
    found = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "make ranks",
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
