"""Whether a changed checkout computes what another one computed: metrics, completions, final weights, bit for bit.

Usage: python bench/same_behaviour.py record before.json         (in the checkout to compare with)
       python bench/same_behaviour.py record after.json          (in the changed one, on the same machine)
       python bench/same_behaviour.py compare before.json after.json [--renamed old=new ...]

Three runs with one thread: six steps of the demo, four of the arithmetic recipe, and a tiny fully trained model with
several optimizer steps a rollout, a reference that is synced, and dynamic sampling. What a clock measures is left out.
Bits differ between processors, so both records have to come from one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import common

RECIPES = {
    "demo": ("recipes/length-smollm2-cpu.yaml", 6),
    "arithmetic": ("recipes/arithmetic-smollm2-cpu.yaml", 4),
}
TINY = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from tiny import tiny_model, tiny_tokenizer
from groupwise import GRPOConfig, GRPOTrainer

def vowels(completions, **columns):
    return [float(sum(letter in "aeiou" for letter in text)) for text in completions]

def letter_e(completions, **columns):
    return [None if not text else float("e" in text) for text in completions]

rows = [{{"prompt": f"say {{word}}"}} for word in "one two three four five six seven eight nine ten".split()]
config = GRPOConfig(
    output_dir={output!r}, prompts_per_step=3, num_generations=4, max_completion_length=12, max_steps=6,
    learning_rate=1e-2, num_iterations=2, num_minibatches=3, sync_ref_model=True, ref_model_sync_steps=2,
    dynamic_sampling=True, reward_weights=[1.0, 0.5], eval_strategy="steps", eval_steps=3, save_steps=2,
    num_eval_problems=3, dtype="float32", use_cpu=True, seed=7,
)
GRPOTrainer(tiny_model(), [vowels, letter_e], config, rows, rows[:4], tiny_tokenizer()).train()
"""
IS_CLOCK = ("time/", "step_time", "tokens_per_second", "memory", "/seconds", "timestamp", "time")
"""Keys that hold, or end in, what a clock or the system measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("output", type=Path)
    recording.add_argument("--only", choices=[*RECIPES, "tiny"], action="append")
    comparing = commands.add_parser("compare")
    comparing.add_argument("files", type=Path, nargs=2)
    comparing.add_argument("--renamed", action="append", default=[], metavar="OLD=NEW", help="part of a metric's key")
    arguments = parser.parse_args()
    if arguments.command == "record":
        record(arguments.output, arguments.only or [*RECIPES, "tiny"])
    else:
        then, now = (json.loads(path.read_text())["runs"] for path in arguments.files)
        found = differences(then, now, dict(pair.split("=") for pair in arguments.renamed))
        print("\n".join(found) or "the same: every metric, completion and weight")
        sys.exit(bool(found))


def record(output: Path, names: list[str]) -> None:
    """Run what is named and write what came out."""
    result = {**common.header(), "runs": {}}
    for name in names:
        folder = common.SCRATCH / "same_behaviour" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.with_suffix(".log")
        with log.open("w") as out:
            code = subprocess.run(_command(name, folder), stdout=out, stderr=out, env=_environment()).returncode
        if code != 0:
            sys.exit(f"{name} ended with exit code {code}; see {log}")
        result["runs"][name] = read_run(folder)
        print(f"{name}: {len(result['runs'][name]['metrics'])} steps", flush=True)
    common.save(output, result)


def _command(name: str, folder: Path) -> list[str]:
    if name == "tiny":
        return [
            sys.executable,
            "-c",
            TINY.format(root=str(common.ROOT), tests=str(common.ROOT / "tests"), output=str(folder)),
        ]
    recipe, steps = RECIPES[name]
    settings = {"max_steps": steps, "output_dir": folder}
    sets = [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "groupwise", "train", str(common.ROOT / recipe), *sets]


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(common.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CI": "1"}


def read_run(folder: Path) -> dict[str, Any]:
    """Metrics as they are, completions and weights as digests."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "metrics": [{key: value for key, value in step.items() if not _is_clock(key)} for step in metrics],
        "completions": {path.name: _digest_of_groups(path) for path in sorted(folder.glob("completions/*.jsonl"))},
        "weights": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.glob("final/*.safetensors"))
        },
    }


def _is_clock(key: str) -> bool:
    return key.startswith(IS_CLOCK) or key.endswith(IS_CLOCK)


def _digest_of_groups(path: Path) -> str:
    """Of what was drawn, sampled, scored and made of it; keys may have other names."""
    kept = []
    for line in path.read_text().splitlines():
        group = json.loads(line)
        kept.append([group[key] for key in ("draw", "problem", "prompt_ids", "policy_version", "is_used")])
        kept += [
            [c[key] for key in ("text", "ids", "stop_reason", "rewards", "advantage", "logprob_mean", "logprob_min")]
            for c in group["completions"]
        ]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def differences(then: Mapping[str, Any], now: Mapping[str, Any], renamed: Mapping[str, str]) -> list[str]:
    """A line for each thing that is not the same."""
    found = [f"{name} is in one record only" for name in then.keys() ^ now.keys()]
    for name in then.keys() & now.keys():
        found += _of_metrics(name, then[name]["metrics"], now[name]["metrics"], renamed)
        for what in ("completions", "weights"):
            keys = then[name][what].keys() | now[name][what].keys()
            found += [f"{name}: {key}" for key in sorted(keys) if then[name][what].get(key) != now[name][what].get(key)]
    return found


def _of_metrics(
    name: str, then: list[dict[str, Any]], now: list[dict[str, Any]], renamed: Mapping[str, str]
) -> list[str]:
    rename: Callable[[str], str] = lambda key: _renamed(key, renamed)  # noqa: E731
    found = [] if len(then) == len(now) else [f"{name}: {len(then)} steps, now {len(now)}"]
    for old, new in zip(then, now, strict=False):
        mapped = {rename(key): value for key, value in old.items()}
        for key in sorted(mapped.keys() | new.keys()):
            before, after = mapped.get(key, "absent"), new.get(key, "absent")
            if before != after:
                found.append(f"{name}, step {new.get('step')}, {key}: {before}, now {after}")
    return found


def _renamed(key: str, renamed: Mapping[str, str]) -> str:
    for old, new in renamed.items():
        key = key.replace(old, new)
    return key


if __name__ == "__main__":
    main()
