"""Measures `groupwise watch` on a long run: first paint, jumps to any step, searches, memory, and attacks that fail.

python bench/watch.py                                             10,000 steps x 256 completions
python bench/watch.py --steps 500 --output watch.json

The records are synthetic, with the keys and the sizes of a real run; the browser is a headless Chromium.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from chromium import Chromium, Page, find_chromium
from common import RESULTS, ROOT, SCRATCH, header, measure_this_checkout, save, spread

measure_this_checkout()

from tests.watch.attacks import SCRIPTS, outside_paths  # noqa: E402

GROUPS, COMPLETIONS, TOKENS = 32, 8, 40
VARIANTS = 24
"""Steps with texts of their own; the others repeat them under numbers of their own."""

NUM_JUMPS = 20
SECRET = "the words of a file outside"
BOUNDS = {"first_paint_s": 2.0, "jump_s": 0.5, "server_bytes": 300 * 2**20}
SENTENCE = "An assignment binds a name to a value, and the value of a mutable object may change behind it. "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=RESULTS / "watch.json")
    options = parser.parse_args()
    if find_chromium() is None:
        print("There is no Chromium here, so the page is not measured; on Debian: apt-get install chromium")
        return
    head, run = header(), SCRATCH / "watch" / "run"
    shutil.rmtree(run.parent, ignore_errors=True)
    num_bytes = write_long_run(run, options.steps)
    about = {"steps": options.steps, "completions_a_step": GROUPS * COMPLETIONS, "bytes": num_bytes}
    save(options.output, {**head, "run": about, **measure(run, options.steps), "bounds": BOUNDS})
    print(options.output.read_text())
    shutil.rmtree(run.parent)


def write_long_run(run: Path, num_steps: int) -> int:
    """A run folder as the trainer would have left it; returns its bytes."""
    rng = random.Random(0)
    (run / "completions").mkdir(parents=True)
    (run / "final").mkdir()
    (run.parent / "secret.txt").write_text(SECRET)
    recipe = {"model": "synthetic", "run_name": "long", "max_steps": num_steps, "prompts_per_step": GROUPS}
    (run / "run.json").write_text(json.dumps({"schema_version": 2, "recipe": recipe}))
    events = [{"kind": "start", "step": 0}]
    events += [{"kind": "warning", "step": step, "message": "a warning"} for step in range(500, num_steps, 500)]
    events += [{"kind": "end", "step": num_steps, "is_complete": True}]
    stamp = {"schema_version": 2, "time": "2026-01-01T00:00:00+00:00"}
    (run / "events.jsonl").write_text("".join(json.dumps(stamp | event) + "\n" for event in events))
    with (run / "metrics.jsonl").open("w") as file:
        file.writelines(json.dumps(metrics(step, num_steps, rng)) + "\n" for step in range(1, num_steps + 1))
    variants = [[group(variant * GROUPS + i, rng) for i in range(GROUPS)] for variant in range(VARIANTS)]
    for step in range(1, num_steps + 1):
        lines = variants[step % VARIANTS]
        text = "".join(line.replace('"draw": 0', f'"draw": {step * GROUPS + i}', 1) for i, line in enumerate(lines))
        (run / "completions" / f"step-{step:06d}.jsonl").write_text(text)
    return sum(path.stat().st_size for path in run.rglob("*") if path.is_file())


def metrics(step: int, num_steps: int, rng: random.Random) -> dict[str, Any]:
    """The record of a step with about as many keys as a real one has."""
    done = step / num_steps
    keys = {f"extra/number_{i}": rng.random() for i in range(34)}
    parts = {f"time/{part}": rng.uniform(0.1, 5) for part in ("rollout", "reward", "learn", "other")}
    functions = {f"rewards/{name}/mean": rng.gauss(done, 0.1) for name in ("right", "format", "length")}
    held_out = {"eval_reward": rng.gauss(done, 0.05), "eval_reward_stderr": 0.02} if step % 50 == 0 else {}
    return {
        "schema_version": 2, "step": step, "reward": rng.gauss(done, 0.1), "reward_std": rng.random(),
        "frac_reward_zero_std": rng.random(), "kl": done * rng.random(), "loss": 0.04 * done * rng.random(),
        "entropy": 2 - done + 0.1 * rng.random(), "grad_norm": rng.random(), "learning_rate": 1e-5,
        "completions/mean_length": 100 * rng.random(), "completions/min_length": 3, "completions/max_length": 128,
        "completions/clipped_ratio": rng.random() / 4, "step_time": sum(parts.values()), "tokens_per_second": 600.0,
        "memory_peak_bytes": 2 * 2**30, "num_tokens": 9000 * step, **parts, **functions, **held_out, **keys,
    }  # fmt: skip


def group(problem: int, rng: random.Random) -> str:
    """A line of completions/; its draw is 0."""
    completions = []
    for _ in range(COMPLETIONS):
        cut = rng.randrange(60, 200)
        rewards = {"right": float(rng.random() < 0.5), "format": rng.random(), "length": -rng.random()}
        completions.append(
            {
                "text": (SENTENCE * 3)[:cut],
                "ids": [rng.randrange(49152) for _ in range(TOKENS)],
                "stop_reason": "length" if cut > 180 else "stop",
                "rewards": rewards,
                "reward": sum(rewards.values()),
                "advantage": rng.gauss(0, 1),
                "logprob_mean": -rng.random(),
                "logprob_min": -5.0,
            }
        )
    record = {"schema_version": 2, "draw": 0, "problem": problem, "prompt": f"Question {problem}: {SENTENCE}"}
    record |= {"columns": {"answer": "42"}, "prompt_ids": [1] * 30, "policy_version": 1, "is_used": True}
    return json.dumps(record | {"completions": completions}) + "\n"


def measure(run: Path, num_steps: int) -> dict[str, Any]:
    started = time.perf_counter()
    command = [sys.executable, "-m", "groupwise", "watch", str(run)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert server.stdout is not None
    try:
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found is not None
        start_s = time.perf_counter() - started
        with Chromium() as browser:
            browser.open("about:blank")  # the browser's own start is no part of the page
            page = browser.open("about:blank")
            first, again = load(page, found[0]), load(page, found[0])
            jumps = [jump(page, random.Random(i).randint(1, num_steps)) for i in range(NUM_JUMPS)]
            search_s = search(page)
            complaints = page.complaints
        attacks = attack(found[0])
        return {
            "start_s": round(start_s, 3), "first_visit": first, "second_visit": again, "jump_s": spread(jumps),
            "search_200_steps_s": search_s, "server_bytes": peak_bytes(server.pid), "console_complaints": complaints,
            "attacks": attacks | {"scripts_tried_in_tests": len(SCRIPTS)},
        }  # fmt: skip
    finally:
        server.terminate()
        server.communicate()


def load(page: Page, address: str) -> dict[str, float]:
    """Seconds from the start of a visit to the first paint, and until the curves stand."""
    page.go("about:blank")
    page.wait("location.href === 'about:blank'")
    page.go(address)
    page.wait("document.getElementById('main')?.dataset.ready && document.querySelector('.chart canvas')", 120)
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    all_s = page.run("performance.now()") / 1000
    paint_s = page.run("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
    return {"first_paint_s": round(paint_s, 3), "curves_s": round(all_s, 3)}


def jump(page: Page, step: int) -> float:
    """Seconds from the choice of a step until its first group stands with all its completions."""
    shown = f"document.getElementById('main').dataset.shown?.startsWith('{step}/')"
    script = f"""new Promise(done => {{
        const start = performance.now();
        location.hash = '#groups?run=0&step={step}';
        const look = () => {shown} ? requestAnimationFrame(() => done(performance.now() - start)) : setTimeout(look, 5);
        look();
    }})"""
    seconds = page.run(script) / 1000
    assert page.run("document.querySelectorAll('.completion').length") == COMPLETIONS
    return float(round(seconds, 4))


def search(page: Page) -> float:
    """Seconds of a search for the worst completions of the last 200 steps."""
    start = time.perf_counter()
    page.run("location.hash = '#search?run=0&by=worst&asked=1'")
    page.wait("document.querySelector('[role=status]')?.textContent.endsWith('searched.')", 120)
    return round(time.perf_counter() - start, 3)


def attack(address: str) -> dict[str, int]:
    """Requests for files that are none of the page's: how many, and how many brought one."""
    root = address.split("/", 3)
    base = "/".join(root[:3])
    paths = [address + path for path in outside_paths()] + [f"{base}/{path}" for path in outside_paths()]
    return {"requests_for_other_files": len(paths), "that_got_one": sum(map(brings_a_file, paths))}


def brings_a_file(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:
            text = answer.read().decode("utf-8", "replace")
    except (urllib.error.URLError, ValueError):
        return False
    return SECRET in text or "root:" in text or "schema_version" in text


def peak_bytes(pid: int) -> int:
    """The most memory that the server has held so far; Linux only, 0 elsewhere."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


if __name__ == "__main__":
    main()
