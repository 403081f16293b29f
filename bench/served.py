"""The demo's recipe over a real vLLM server: does it learn, what does the mismatch cost, does it survive a kill.

    python bench/served.py --vllm ENVIRONMENT [--steps 50] [--quick]

Three runs: one in which the server is killed (SIGKILL) in mid-run and started again; one in which the adapter never
reaches the server, which the probe must end; a short one with the weights of the whole model (`--whole-model`: that one
alone, beside the others' figures). Writes results/served.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, SCRATCH, header, measure_this_checkout, save

measure_this_checkout()

RECIPE = ROOT / "recipes" / "length-smollm2-cpu.yaml"
PORT = 8130
WHOLE_MODEL = {"lora": "null", "sync": "weights", "beta": "0", "learning_rate": "2.0e-5"}


def main() -> None:
    arguments = _arguments()
    work = SCRATCH / "served"
    work.mkdir(parents=True, exist_ok=True)
    output = Path(arguments.output)
    if arguments.whole_model:
        found = json.loads(output.read_text()) if output.is_file() else header()
    else:
        found = header() | {"vllm": _version_of(arguments.vllm), "steps": arguments.steps, "settings": {}}
        with serving(arguments, work, PORT) as server:
            found["settings"] = dict(_settings(arguments))
            found["start_s"] = server.start_s
            found["killed"] = killed_run(arguments, work, server)
            found["never_published"] = never_published(arguments, work)
    with serving(arguments, work, PORT, WHOLE_MODEL) as server:
        found["whole_model"] = {**header(), "vllm": _version_of(arguments.vllm), **whole_model(arguments, work, server)}
    save(output, found)
    print(json.dumps(found, indent=2))


def killed_run(arguments: argparse.Namespace, work: Path, server: Server) -> dict[str, Any]:
    """The demo with its server killed in the middle."""
    run = work / "killed"
    process = _train(arguments, run, server.url)
    middle = arguments.steps // 2
    while len(_lines(run / "metrics.jsonl")) < middle and process.poll() is None:
        time.sleep(0.5)
    killed = server.kill() if process.poll() is None else []
    code = process.wait()
    metrics, events = _lines(run / "metrics.jsonl"), _lines(run / "events.jsonl")
    return {
        "exit_code": code,
        "killed_after_step": middle,
        "killed_processes": len(killed),
        "reward": [m["reward"] for m in metrics],
        "rollout_against_learner": [_mismatch(m) for m in metrics],
        "probe_gap": [m["servers/probe_gap"] for m in metrics],
        "repeats": [m["servers/repeats"] for m in metrics],
        "seconds": {key: [m.get(f"time/{key}") for m in metrics] for key in ("rollout", "learn", "publish")},
        "events": [{"kind": e["kind"], "step": e.get("step")} for e in events if e["kind"].startswith("server")],
    }


def never_published(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The same with a published adapter that never changes: the negative control."""
    url = f"http://127.0.0.1:{PORT}"
    process = _train(arguments, work / "never", url, program=_NEVER, server_timeout="20")
    process.wait()
    text = (work / "never.log").read_text()
    return {
        "exit_code": process.returncode,
        "steps_recorded": len(_lines(work / "never" / "metrics.jsonl")),
        "error": next((line.strip() for line in text.splitlines() if "never reached" in line), None),
    }


def whole_model(arguments: argparse.Namespace, work: Path, server: Server) -> dict[str, Any]:
    """Four steps of full fine-tuning: the weights of each are reloaded from a new folder."""
    process = _train(arguments, work / "whole", server.url, **WHOLE_MODEL, max_steps="4", save_steps="4")
    code = process.wait()
    metrics = _lines(work / "whole" / "metrics.jsonl")
    return {
        "settings": dict(_settings(arguments)) | WHOLE_MODEL | {"max_steps": "4", "save_steps": "4"},
        "exit_code": code,
        "reward": [m["reward"] for m in metrics],
        "rollout_against_learner": [_mismatch(m) for m in metrics],
        "probe_gap": [m["servers/probe_gap"] for m in metrics],
        "repeats": [m["servers/repeats"] for m in metrics],
        "seconds": {key: [m.get(f"time/{key}") for m in metrics] for key in ("rollout", "learn", "publish")},
    }


_NEVER = """
import sys
from groupwise.rollout import publish
write, first = publish.VersionWriter._write, {}
def stuck(self, policy, folder):
    import shutil
    if "folder" not in first:
        write(self, policy, folder)
        first["folder"] = folder.parent / "first"
        shutil.copytree(folder, first["folder"], dirs_exist_ok=True)
    else:
        shutil.copytree(first["folder"], folder, dirs_exist_ok=True)
publish.VersionWriter._write = stuck
from groupwise.cli import main
main(sys.argv[1:])
"""
_TRAIN = "import sys; from groupwise.cli import main; main(sys.argv[1:])"


class Server:
    """`groupwise serve` with the process ids below it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, start_s: float) -> None:
        self.process, self.url, self.start_s = process, f"http://127.0.0.1:{port}", start_s

    def kill(self) -> list[int]:
        """SIGKILL to the server and all its workers; `groupwise serve` and its keeper live on."""
        keepers = _children(self.process.pid)
        servers = [pid for keeper in keepers for pid in _children(keeper)]
        victims = servers + [pid for server in servers for pid in _below(server)]
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return victims


@contextmanager
def serving(arguments: argparse.Namespace, work: Path, port: int, changes: Mapping[str, str] | None = None) -> Any:
    """A server through `groupwise serve`, and nothing left of it afterwards."""
    command = [sys.executable, "-c", _TRAIN, "serve", str(RECIPE), "--vllm", arguments.vllm, "--port", str(port)]
    for key, value in (changes or {}).items():
        command += ["--set", f"{key}={value}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1"}
    start = time.perf_counter()
    with (work / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        while not _is_up(port):
            if process.poll() is not None or time.perf_counter() - start > 900:
                raise SystemExit(f"no server: see {work / 'serve.log'}")
            time.sleep(1)
        yield Server(process, port, round(time.perf_counter() - start, 1))
    finally:
        below = _below(process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        left = [pid for pid in below if _is_alive(pid)]
        assert not left, f"left behind: {left}"


def _train(
    arguments: argparse.Namespace, run: Path, url: str, *, program: str = _TRAIN, **more: str
) -> subprocess.Popen[bytes]:
    keys = {**_settings(arguments), "servers": url, "output_dir": str(run), **more}
    command = [sys.executable, "-c", program, "train", str(RECIPE), "--overwrite"]
    for key, value in keys.items():
        command += ["--set", f"{key}={value}"]
    with run.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)})


def _settings(arguments: argparse.Namespace) -> dict[str, str]:
    """What differs from the recipe: no evaluations, and smaller steps where they were asked for."""
    found = {"max_steps": arguments.steps, "save_steps": arguments.steps, "eval_on_start": "false"}
    found |= {"eval_strategy": "no", "eval_steps": "null", "server_timeout": 900, "dtype": arguments.dtype}
    for name in ("prompts_per_step", "num_generations", "max_completion_length", "learning_rate"):
        if (value := getattr(arguments, name)) is not None:
            found[name] = value
    return {key: str(value) for key, value in found.items()}


def _mismatch(metrics: dict[str, Any]) -> Any:
    return {k: v for k, v in metrics.items() if "sampling_logp_difference" in k or "gap" in k or "mismatch" in k}


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    except OSError:
        return []


def _is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def _below(pid: int) -> list[int]:
    return [each for child in _children(pid) for each in (child, *_below(child))]


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _version_of(environment: str) -> str:
    code = "from importlib.metadata import distributions as d; " + (
        "print(next(f'{x.name} {x.version}' for x in d() if x.name in ('vllm', 'vllm-cpu')))"
    )
    python = Path(environment) / "bin" / "python"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", required=True, help="vLLM's own environment")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--prompts-per-step", type=int)
    parser.add_argument("--num-generations", type=int)
    parser.add_argument("--max-completion-length", type=int)
    parser.add_argument("--learning-rate")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--whole-model", action="store_true", help="the run with the weights of the whole model alone")
    parser.add_argument("--output", default=str(RESULTS / "served.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
