"""`groupwise serve` with a program in vLLM's place: flags, ports, restarts, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tiny import tiny_model, tiny_tokenizer

from groupwise import serving as serve
from groupwise.config import Recipe
from groupwise.errors import ConfigError, RolloutError

SERVER = """
import http.server, os, subprocess, sys, pathlib, time
folder = pathlib.Path(os.environ["FAKE_FOLDER"])
port = int(sys.argv[sys.argv.index("--port") + 1])
engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with (folder / "pids").open("a") as file:
    file.write(f"{os.getpid()} {engine.pid}\\n")
if (folder / "die").exists():
    sys.exit(7)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "0"); self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def program(tmp_path, monkeypatch):
    (tmp_path / "server.py").write_text(SERVER)
    monkeypatch.setenv("FAKE_FOLDER", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv(serve.KEY, raising=False)
    return str(tmp_path / "server.py")


def recipe_of(model, **keys):
    return Recipe(model=model, data="python-docs", rewards=[{"name": "length", "target": 5}], **keys)


def fleet_of(recipe, program, **options):
    return serve.make_fleet(recipe, **{"gpus": None, "host": None, "port": None, "vllm": program, **options})


def pids(folder):
    return [int(pid) for line in (folder / "pids").read_text().splitlines() for pid in line.split()]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(holds, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_flags_follow_from_the_recipe(model, program):
    recipe = recipe_of(
        model,
        lora={"r": 20},
        max_prompt_length=100,
        max_completion_length=50,
        servers="http://localhost:1",
        rollout_lag=1,
        mismatch="token_truncate",
    )
    fleet = fleet_of(recipe, program)
    with fleet.locks:
        (child,) = fleet.children
        words = child.in_words()
    for flag in (
        "--logprobs-mode processed_logprobs --generation-config vllm",
        "--enable-lora --max-lora-rank 32 --max-loras 3 --max-cpu-loras 5 --max-model-len 150 --dtype bfloat16",
        f"--host 127.0.0.1 --port {child.port}",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True ",
    ):
        assert flag in words
    assert "VLLM_SERVER_DEV_MODE" not in words


def test_whole_weights_need_another_way_in(model, program):
    fleet = fleet_of(recipe_of(model), program)
    with fleet.locks:
        assert "VLLM_SERVER_DEV_MODE=1 " in fleet.children[0].in_words()
        assert "--enable-lora" not in fleet.children[0].in_words()


def test_trap_48_two_fleets_take_different_ports(model, program):
    one, two = (fleet_of(recipe_of(model), program, gpus="0-1") for _ in range(2))
    with one.locks, two.locks:
        ports = [child.port for fleet in (one, two) for child in fleet.children]
        assert len({*ports}) == 4
        assert [c.environment["CUDA_VISIBLE_DEVICES"] for c in one.children] == ["0", "1"]
        with pytest.raises(ConfigError, match=f"Port {ports[0]} is taken"):
            fleet_of(recipe_of(model), program, port=ports[0])


def test_trap_29_only_a_key_opens_the_servers_to_others(model, program, monkeypatch):
    assert serve.host_of("lora", None) == "127.0.0.1"
    with pytest.raises(ConfigError, match="there is no key"):
        serve.host_of("lora", "0.0.0.0")
    monkeypatch.setenv(serve.KEY, "a-long-secret")
    assert serve.host_of("lora", None) == "0.0.0.0"
    assert serve.host_of("weights", None) == "127.0.0.1"  # vLLM's key does not cover the path of new weights
    assert serve.host_of("weights", "10.0.0.1") == "10.0.0.1"
    fleet = fleet_of(recipe_of(model, lora={"r": 8}), program)
    with fleet.locks:
        assert "a-long-secret" not in fleet.children[0].in_words()
        assert fleet.children[0].environment["VLLM_API_KEY"] == "a-long-secret"


@pytest.mark.parametrize(("text", "expected"), [("4-7", ["4", "5", "6", "7"]), ("0, 2-3", ["0", "2", "3"])])
def test_gpus(text, expected):
    assert serve.devices(text) == expected
    with pytest.raises(ConfigError, match="expected numbers"):
        serve.devices("all")


def test_without_vllm_the_error_tells_how_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="environment of its own"):
        serve.find_vllm(None)
    with pytest.raises(ConfigError, match='There is no vLLM at "/nowhere"'):
        serve.find_vllm("/nowhere")


def test_trap_27_a_server_names_its_gpu(model, program, monkeypatch):
    listed = {"0": "NVIDIA H100 (UUID: GPU-0a1b-2c)", "1": "NVIDIA H100 (UUID: GPU-3d)"}
    monkeypatch.setattr(serve, "gpu_names", lambda: listed)
    fleet = fleet_of(recipe_of(model), program, gpus="1,0")
    with fleet.locks:
        assert [child.command[-1] for child in fleet.children] == ["on-GPU-3d", "on-GPU-0a1b-2c"]
        assert fleet.children[0].environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_vllm_is_started_as_a_module_of_its_own_environment(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("")
    (tmp_path / "bin" / "vllm").write_text("")
    expected = [str(tmp_path / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model"]
    for given in (tmp_path, tmp_path / "bin" / "python", tmp_path / "bin" / "vllm"):
        assert serve.find_vllm(str(given)) == expected


def test_a_server_that_dies_is_started_again_and_not_forever(model, program, tmp_path):
    (tmp_path / "die").write_text("")
    said = []
    with pytest.raises(RolloutError, match="ended with code 7, and was started 5 times again"):
        serve.run_fleet(fleet_of(recipe_of(model), program), said.append, "", poll_s=0.02, backoff_s=0.01)
    assert len(said) == 5
    assert len(pids(tmp_path)) == 12
    wait_until(lambda: not any(map(is_alive, pids(tmp_path))))


COMMAND = """
import sys
from groupwise.cli import main
main(["serve", sys.argv[1], "--vllm", sys.argv[2], "--gpus", "0-1"])
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_trap_49_nothing_is_left_behind(model, program, tmp_path, how):
    (tmp_path / "recipe.yaml").write_text(
        f"model: {model}\ndata: python-docs\nrewards: [{{name: length, target: 5}}]\nlora: {{r: 8}}\n"
    )
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "recipe.yaml"), program]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    lines = []
    threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True).start()
    wait_until(lambda: any("ready" in line for line in lines), 60)
    assert len(pids(tmp_path)) == 4
    assert all(map(is_alive, pids(tmp_path)))
    process.send_signal(how)
    process.wait(30)
    process.stderr.close()
    wait_until(lambda: not any(map(is_alive, pids(tmp_path))))
